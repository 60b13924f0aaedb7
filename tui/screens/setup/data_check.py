"""The line under the path: how far the check of the data is, how it ended; and the check's newest report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from textual import on
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from engine.config import DatasetSpec, Preset
from engine.datasets.report import DatasetReport, ShownRow
from engine.errors import FinetuiError
from engine.units import format_duration
from tui.modals.error import describe_error
from tui.screens.setup import data_feed
from tui.screens.setup.pace import WIDE, Pace
from tui.screens.setup.stamp import Stamp, stamp

State = Literal["idle", "fetching", "reading", "deeper", "done"]
"""deeper: the data can be accepted; tokens and near duplicates are still being counted."""

PHASES = {"reading": "reading", "tokens": "counting tokens", "near duplicates": "near duplicates"}


class DataCheck(Static):
    """One data set under check, until it is closed. What it is asked for comes as messages."""

    @dataclass
    class Changed(Message):
        """There is a newer report, or another state."""

    @dataclass
    class Shown(Message):
        """A row that was asked for; None where no row has a finding."""

        row: ShownRow | None

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.asked: DatasetSpec | None = None
        """What the person named: a file, or a data set of the hub."""
        self.data: DatasetSpec | None = None
        """The file that is read."""
        self.report: DatasetReport | None = None
        self.state: State = "idle"
        self.rows = 0
        """How many the file has, those that cannot be used included; 0 while that is not known."""
        self.note = ""
        """Why tokens are not counted, if so."""
        self.seconds: float | None = None
        """How long the reading took."""
        self._feed = data_feed.DataFeed(self)
        self._preset: Preset | None = None
        self._number = 0
        self._open = False
        self._died = False
        """Nobody answers for rows any more, though they were read."""
        self.fault: FinetuiError | None = None
        """What ended the passes over tokens and near duplicates."""
        self.awaited = False
        """Enter was pressed before the data were read: the plan comes next."""
        self._state_of_files: Stamp = ()
        self._whole = False
        """Every pass has ended: reading again would find nothing new."""
        self._stopped = False
        """The passes over tokens and near duplicates are not wanted."""
        self._known = False
        """The report is from an earlier check of the same: what is read now is shown only once it knows more."""
        self._pace = Pace()
        self._began_t = 0.0

    @property
    def readable(self) -> bool:
        """True once every row was read."""
        return self.report is not None and self.state in ("deeper", "done")

    @property
    def outdated(self) -> bool:
        """True if the files are no longer those that were read."""
        return self.asked is not None and stamp(self.asked) != self._state_of_files

    def open(self, data: DatasetSpec, preset: Preset) -> None:
        """Check these data from the beginning."""
        self.asked = self.data = data
        self.report, self.seconds, self.rows, self.note = None, None, 0, ""
        self._whole = self._known = self._stopped = self.awaited = False
        self._state_of_files = stamp(data)
        self._begin("reading", preset)
        self.update(Content("reading …"))

    def resume(self, preset: Preset) -> bool:
        """Go on with what was closed, for the same model, never showing less than was known; False if it cannot be."""
        if self.asked is None or not self.readable or not _same_reading(self._preset, preset):
            return False
        if not self._open:
            self._known = True
            self._begin("done" if self._whole else "deeper", preset)
        return True

    def _begin(self, state: State, preset: Preset) -> None:
        assert self.data is not None
        self.state, self._preset, self._died, self.fault = state, preset, False, None
        self._pace, self._began_t = Pace(), time.monotonic()
        source = self.data if self._known else self.asked
        assert source is not None
        self._number = self._feed.open(source, preset)
        self._open = True
        if not self._known:
            self.row(0, preset.train.max_length)
        elif state == "deeper":
            self.tell(Content("reading again …"))
        self.post_message(self.Changed())

    def close(self) -> None:
        """End the child process; what is known of data that were read stays."""
        self._feed.close()
        self._open = self._died = self.awaited = False
        if self.state in ("fetching", "reading"):
            self.state = "idle"

    def on_unmount(self) -> None:
        """The screen is left, or the app."""
        self._feed.close()

    def forget(self) -> None:
        """There are no data."""
        self.close()
        self.asked = self.data = self.report = None
        self.state = "idle"
        self.post_message(self.Changed())

    def stop(self) -> bool:
        """End the pass that runs; what is known stays. False if none runs."""
        if self.state in ("fetching", "reading"):
            self.close()
            so_far = " What is shown was found so far." if self.report else ""
            self.tell(Content.styled(f"Reading was stopped.{so_far} Enter reads it again.", "$warning"))
            self.post_message(self.Changed())
            return True
        if self.state == "deeper" and self._known:
            # What is known stays as it is; the rows are there when they are there.
            self._stopped = self._whole = True
            self.state = "done"
            self.post_message(self.Changed())
            return True
        if self.state == "deeper":
            self._stopped = True
            self._feed.stop_deeper()
            self.tell(Content("stopping …"))
            return True
        return False

    def row(self, index: int, max_length: int) -> None:
        """Ask for a row, counted from 0, cut at so many tokens."""
        self._revive()
        self._feed.row(index, max_length)

    def find(self, index: int, back: bool, max_length: int) -> None:
        """Ask for the next row with a finding behind or before this one."""
        self._revive()
        self._feed.find(index, back, max_length, self.rows)

    def _revive(self) -> None:
        if self._died and self._preset is not None:
            self._open = False
            self.resume(self._preset)

    def tell(self, text: Content) -> None:
        """Say something on this line."""
        self.update(text)

    # ── what comes from the threads ──────────────────────────────────────────────────────────────────────

    @on(data_feed.Fetching)
    def _fetching(self, event: data_feed.Fetching) -> None:
        if event.number == self._number:
            self.state = "fetching"
            got = event.progress
            self._progress(self._pace_line(got.phase, got.done, got.total, got.unit))

    @on(data_feed.Fetched)
    def _fetched(self, event: data_feed.Fetched) -> None:
        if event.number == self._number:
            self.state, self.data = "reading", event.data

    @on(data_feed.Stepped)
    def _stepped(self, event: data_feed.Stepped) -> None:
        if event.number != self._number:
            return
        step = event.step
        reading = step.phase == "reading"
        if self._known and reading:
            if not self._whole:
                self._progress(self._pace_line("reading again", step.done, step.total, step.unit))
            return
        if self._known and self._whole and (self._stopped or step.phase != "done"):
            # Only for the rows: the index of what is wrong with them is made anew.
            if self._stopped and step.phase != "done":
                self._feed.stop_deeper()
            return
        self._known = False  # from here on it is more than was known
        self.report = step.report or self.report
        self.note = step.note or self.note
        if step.unit == "rows":
            self.rows = max(self.rows, step.total)
        if not reading and self.seconds is None:
            self.seconds = time.monotonic() - self._began_t
        self.state = "reading" if reading else "done" if step.phase == "done" else "deeper"
        if step.phase in PHASES:
            self._progress(self._pace_line(PHASES[step.phase], step.done, step.total, step.unit))
        self.post_message(self.Changed())

    def _progress(self, text: Content) -> None:
        self.tell(Content.assemble(text, (self._keys, "$quiet")))

    @property
    def _keys(self) -> str:
        if self.awaited:
            return " · esc stops · then the plan"
        return " · esc stops" + (" · enter goes on" if self.state == "deeper" and self.size.width >= WIDE else "")

    def _pace_line(self, name: str, done: int, total: int, unit: str) -> Content:
        return self._pace.line(name, done, total, unit, self.content_size.width - len(self._keys))

    @on(data_feed.Ended)
    def _ended(self, event: data_feed.Ended) -> None:
        if event.number != self._number or (self._known and self._whole and event.error is None):
            return
        readable = self.readable
        self.state = "done" if readable else "idle"
        self._whole = readable and event.error is None
        if event.error is not None:
            self.report = self.report if readable else None
            self._died, self.fault = readable, event.error
            self.tell(describe(event.error))
        self.post_message(self.Changed())

    @on(data_feed.RowShown)
    def _row(self, event: data_feed.RowShown) -> None:
        if event.number != self._number:
            return
        if event.error is None:
            self.post_message(self.Shown(event.row))
        elif self.readable:
            self.app.notify(str(event.error), severity="warning", markup=False)

    def took(self) -> str:
        """`read in 0.4 s`."""
        return f"read in {format_duration(self.seconds)}" if self.seconds is not None else ""


def describe(error: FinetuiError) -> Content:
    """An error, as every part of the app shows it."""
    return describe_error(error.title, error.detail, error.hints)


def _same_reading(before: Preset | None, after: Preset) -> bool:
    """True if both presets see the same tokens: those of the same model, wherever the limit cuts."""
    return before is not None and (before.model, before.revision) == (after.model, after.revision)
