"""The data under check, followed in threads: what the child process finds, and what it answers, comes as messages.

Every message carries the number of the data that it is about: of what was opened before, some may still be on its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from textual.message import Message

from engine.config import DatasetSpec, Preset
from engine.data_session import DataSession
from engine.datasets import hub
from engine.datasets.check import Step
from engine.datasets.report import ShownRow
from engine.errors import FinetuiError, UsageError
from tui.screens.setup.limit import row_at_limit

if TYPE_CHECKING:
    from textual.message_pump import MessagePump

SEEK_S = 2.0
"""Seconds that are spent on looking, row by row, for one that a lowered limit cuts."""
TRIES = 1_000
"""Rows that are looked at for a finding: those that are only too long for another limit are passed over."""


@dataclass
class Fetching(Message, bubble=False):
    """A Hugging Face data set is on its way."""

    number: int
    progress: hub.Progress


@dataclass
class Fetched(Message, bubble=False):
    """It is a file now."""

    number: int
    data: DatasetSpec


@dataclass
class Stepped(Message, bubble=False):
    """The check has come so far."""

    number: int
    step: Step


@dataclass
class Ended(Message, bubble=False):
    """The check is over; with an error if there is no result."""

    number: int
    error: FinetuiError | None = None


@dataclass
class RowShown(Message, bubble=False):
    """A row that was asked for, or why it cannot be shown; neither where no row has a finding."""

    number: int
    row: ShownRow | None
    error: FinetuiError | None = None


class Cancelled(Exception):
    """Raised into a fetch that nobody waits for any more."""


Question = Callable[[DataSession], ShownRow | None]


def _way(index: int, back: bool, rows: int, to: int | None) -> Iterator[int]:
    """The rows from one to another, both left out, around the end; without another, all but the first."""
    step = -1 if back else 1
    for away in range(1, rows):
        at = (index + step * away) % rows
        if at == to:
            return
        yield at


def _newly_cut(session: DataSession, way: Iterator[int], max_length: int) -> ShownRow | None:
    """The first row on the way with a finding at this limit. Raises `UsageError` if the way is too long to walk."""
    end_t = time.monotonic() + SEEK_S
    for seen, at in enumerate(way, 1):
        row = row_at_limit(session.row(at, max_length))
        if row.findings:
            return row
        if time.monotonic() > end_t:
            raise UsageError(f"No finding in the next {seen:,} rows", "", ("Go on from a row further on.",))
    return None


class DataFeed:
    """One data set at a time. Every method returns at once; what happens is posted to `target`."""

    def __init__(self, target: MessagePump) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._number = 0
        self._max_length = 0
        """Where the check cuts."""
        self._session: DataSession | None = None
        self._question: Question | None = None

    def open(self, spec: DatasetSpec, preset: Preset) -> int:
        """Let go of the data that are open and check these; the number that their messages carry."""
        number = self._let_go()
        self._max_length = preset.train.max_length
        self._in_thread(lambda: self._check(number, spec, preset))
        return number

    def row(self, index: int, max_length: int) -> None:
        """Ask for a row, counted from 0, cut at so many tokens. Of several questions the last is answered."""
        self._ask(lambda session: row_at_limit(session.row(index, max_length)))

    def find(self, index: int, back: bool, max_length: int, rows: int) -> None:
        """Ask for the next row behind or before this one that has a finding. `rows`: how many there are; 0: unknown.

        The child knows which rows the limit of the check cuts. Those that only a lower one cuts are looked for here.
        """
        lower = max_length < self._max_length

        def found(session: DataSession) -> ShownRow | None:
            at = session.next_finding(index, back)
            if lower and (row := _newly_cut(session, _way(index, back, rows, at), max_length)):
                return row
            for _ in range(TRIES):
                if at is None:
                    break
                row = row_at_limit(session.row(at, max_length))
                if row.findings:
                    return row
                at = session.next_finding(at, back)
            return None

        self._ask(found)

    def stop_deeper(self) -> None:
        """End the pass over tokens or near duplicates; what is known stays, and rows are still answered."""
        session = self._session
        if session is not None:
            self._in_thread(lambda: self._stop(session))

    def close(self) -> None:
        """End the child process, and a fetch."""
        self._let_go()

    def _let_go(self) -> int:
        with self._changed:
            self._number += 1
            number = self._number
            session, self._session, self._question = self._session, None, None
            self._changed.notify_all()
        if session is not None:
            # Not a daemon: a child that does not end by itself is killed even if the app is already leaving.
            threading.Thread(target=session.close, name="data-close").start()
        return number

    def _ask(self, question: Question) -> None:
        with self._changed:
            self._question = question
            self._changed.notify_all()

    def _in_thread(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="data", daemon=True).start()

    # ── in threads ───────────────────────────────────────────────────────────────────────────────────────

    def _check(self, number: int, spec: DatasetSpec, preset: Preset) -> None:
        try:
            if hub.hub_spec(spec.path):
                spec = hub.fetch(spec, lambda progress: self._fetching(number, progress))
                self._post(number, Fetched(number, spec))
            session = self._begin(number, spec, preset)
            if session is None:
                return
            self._in_thread(lambda: self._answer(number, session))
            for step in session.steps():
                self._post(number, Stepped(number, step))
        except Cancelled:
            return
        except FinetuiError as error:
            self._post(number, Ended(number, error))
        else:
            self._post(number, Ended(number))

    def _begin(self, number: int, spec: DatasetSpec, preset: Preset) -> DataSession | None:
        """The session, started; None if the data were let go of meanwhile."""
        with self._changed:
            if number != self._number:
                return None
            session = DataSession(spec, preset)
            session.start()
            self._session = session
            return session

    def _fetching(self, number: int, progress: hub.Progress) -> None:
        if number != self._number:
            raise Cancelled
        self._target.post_message(Fetching(number, progress))

    def _answer(self, number: int, session: DataSession) -> None:
        """Answer the newest question, one after the other, as long as the data are open."""
        while (question := self._next_question(number)) is not None:
            try:
                self._post(number, RowShown(number, question(session)))
            except FinetuiError as error:
                self._post(number, RowShown(number, None, error))

    def _next_question(self, number: int) -> Question | None:
        with self._changed:
            self._changed.wait_for(lambda: self._question is not None or number != self._number)
            if number != self._number:
                return None
            question, self._question = self._question, None
            return question

    def _stop(self, session: DataSession) -> None:
        try:
            session.stop_deeper()
        except FinetuiError as error:
            self._post(self._number, Ended(self._number, error))

    def _post(self, number: int, message: Message) -> None:
        if number == self._number:
            self._target.post_message(message)
