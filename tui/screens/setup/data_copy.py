"""A cleaned copy of the data: what it is for, where it goes, and the line that says how far it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual import on
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine.config import DatasetSpec
from engine.datasets.findings.encoding import MOJIBAKE
from engine.datasets.findings.repeats import DUPLICATE
from engine.datasets.report import DatasetReport
from engine.datasets.tokens import NOTHING, REFUSED, STRADDLING
from engine.errors import FinetuiError
from engine.paths import absolute
from engine.text import clean, clean_line
from tui.messages import Problem
from tui.modals.ask import Answer, AskModal
from tui.screens.setup.pace import Pace

if TYPE_CHECKING:
    from engine.datasets.fix import Fixed

REPAIRED = {DUPLICATE.kind, MOJIBAKE.kind}
"""Warnings that a copy is rid of; so it is of the errors, but for those that are a matter of the model."""
OF_THE_MODEL = {NOTHING.kind, REFUSED.kind, STRADDLING.kind}
DETAIL = (
    "Rows that cannot be used and exact duplicates are left out; broken encodings are repaired.\n"
    "The original stays as it is. The copy is then taken as the data."
)


class Cancelled(Exception):
    """Raised into a copy that is not wanted any more."""


class DataCopy(Static):
    """Writes one copy at a time, in a thread; not there while none is written."""

    @dataclass
    class Written(Message):
        """The copy is there."""

        data: DatasetSpec
        told: Content
        """What it left out and repaired."""

    @dataclass
    class Copying(Message, bubble=False):
        """So many bytes of the original are done."""

        done: int
        total: int

    @dataclass
    class Ended(Message, bubble=False):
        """The copy is written, or why it is not; neither if it was cancelled."""

        fixed: Fixed | None = None
        error: FinetuiError | None = None

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._data: DatasetSpec | None = None
        self._cancel = threading.Event()
        self._pace = Pace()

    def on_mount(self) -> None:
        """Nothing is written."""
        self.display = False

    def on_unmount(self) -> None:
        """The screen is left, or the app."""
        self.cancel()

    def ask(self, data: DatasetSpec) -> None:
        """Ask for a name, then write."""
        if not self.display:
            self._data = data
            self.app.push_screen(
                AskModal("Write a cleaned copy", DETAIL, str(free_name(absolute(data.path)))), self._begin
            )

    def _begin(self, answer: Answer | None) -> None:
        if answer is not None and self._data is not None:
            self._cancel, self._pace, self.display = threading.Event(), Pace(), True
            self.update(Content("writing a cleaned copy …"))
            work = (self._data, absolute(answer.text), self._cancel)
            threading.Thread(target=self._write, args=work, name="data-copy").start()

    def cancel(self) -> bool:
        """End it; nothing is left of the copy. False if none is being written."""
        self._cancel.set()
        written, self.display = bool(self.display), False
        return written

    def _write(self, data: DatasetSpec, target: Path, cancel: threading.Event) -> None:
        from engine.datasets.fix import fix  # a screen that nobody writes a copy on need not load it

        def tell(done: int, total: int) -> None:
            if cancel.is_set():
                raise Cancelled
            self.post_message(self.Copying(done, total))

        try:
            fixed = fix(data, target, tell)
        except Cancelled:
            return
        except FinetuiError as error:
            self.post_message(self.Ended(error=error))
        else:
            self.post_message(self.Ended(fixed))

    @on(Copying)
    def _copying(self, event: Copying) -> None:
        line = self._pace.line("writing a cleaned copy", event.done, event.total, "bytes", self.size.width)
        self.update(Content.assemble(line, (" · esc stops", "$quiet")))

    @on(Ended)
    def _ended(self, event: Ended) -> None:
        if not self.display:
            return
        self.display = False
        if event.error is not None:
            self.post_message(Problem(event.error))
        elif event.fixed is not None and self._data is not None:
            plain = {"path": event.fixed.path, "format": "auto", "columns": "", "subset": "", "source": ""}
            self.post_message(self.Written(self._data.model_copy(update=plain), describe(event.fixed)))


def is_fixable(report: DatasetReport) -> bool:
    """True if a copy would be better than the original, and not empty."""
    return (
        report.complete
        and report.rows > 0
        and any(
            problem.kind in REPAIRED or (problem.level == "error" and problem.kind not in OF_THE_MODEL)
            for problem in report.problems
        )
    )


def free_name(path: Path) -> Path:
    """`support.clean.jsonl` beside `support.csv`; with a number if that is there already."""
    names = (f"{path.stem}.clean{number or ''}.jsonl" for number in (0, *range(2, 10_000)))
    return next(beside for name in names if not (beside := path.with_name(name)).exists())


def describe(fixed: Fixed) -> Content:
    """What was written, left out and repaired, each with its count."""
    words = [f"{fixed.rows:,} rows written"]
    words += [f"left out: {_counts(fixed.dropped)}"] if fixed.dropped else []
    words += [f"repaired: {_counts(fixed.repaired)}"] if fixed.repaired else []
    name = clean_line(Path(fixed.path).name)
    return Content.assemble(("✓ ", "$success"), f"{name}: {' · '.join(words)}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {clean(reason)}" for reason, count in counts.items())
