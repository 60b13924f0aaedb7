"""Step two: what to learn from. The file is read once, in a thread, and told about with every fault's place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import DirectoryTree, Input, ProgressBar, Static
from textual.worker import get_current_worker

from engine.config import DatasetSpec, Preset
from engine.datasets.scan import DatasetReport, scan
from engine.errors import FinetuiError
from engine.paths import absolute
from engine.units import format_bytes, format_duration
from tui.modals.error import describe_error
from tui.screens.setup.path_input import DataTree, PathInput, is_dir
from tui.widgets.columns import Section
from tui.widgets.data_report import TRAINED_STYLE, ReportView, RowView

TELL_INTERVAL_S = 0.1


class ScanCancelled(Exception):
    """The person does not want to wait."""


class DataStep(Container):
    """A path, what the scan found, and a row with the text that is learned marked."""

    BINDINGS = [
        Binding("ctrl+t", "tree", "Files", key_display="^t", tooltip="choose a file from the folders"),
        Binding("ctrl+n", "row(1)", "Next row", key_display="^n", tooltip="show another of the first rows"),
    ]

    class Accepted(Message):
        """Step two is answered."""

        def __init__(self, data: DatasetSpec, report: DatasetReport) -> None:
            super().__init__()
            self.data = data
            self.report = report

    @dataclass
    class Progressed(Message):
        """The scan has read so many bytes."""

        done: int
        total: int
        seconds: float

    @dataclass
    class Scanned(Message):
        """The scan is over, with a report or with the reason why there is none."""

        data: DatasetSpec
        report: DatasetReport | None
        seconds: float
        error: FinetuiError | None = None

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.preset: Preset | None = None
        self.data: DatasetSpec | None = None
        self.report: DatasetReport | None = None
        self._scanning: DatasetSpec | None = None
        self._advance = False

    def compose(self) -> ComposeResult:
        """The path; below it the tree, or the report and a row."""
        with Horizontal(id="data-line"):
            yield Static("data", id="data-label")
            yield PathInput(id="data-path")
        yield Static(id="data-note")
        yield ProgressBar(id="data-progress", show_eta=False, show_percentage=True)
        with VerticalScroll(id="data-report"):
            yield ReportView(id="report")
            yield Section("", id="row-rule")
            yield RowView(id="row")

    def on_mount(self) -> None:
        """Nothing is known yet."""
        self.query_one("#data-progress").display = False
        self.query_one("#row-rule").display = False

    @property
    def path(self) -> str:
        """What stands in the line."""
        return self.query_one(PathInput).path

    def show(self, preset: Preset, data: DatasetSpec | None) -> None:
        """Begin this step: the draft's data, else the preset's own, are read at once."""
        bundled = preset.data if preset.data.path else None
        before = self.data if self.preset is None or not self._is_bundled() else None
        self.preset = preset
        wanted = data or before or bundled
        self.query_one(PathInput).take(wanted.path if wanted else "")
        self._advance = False
        if wanted is None:
            self._forget()
        elif wanted != self.data or self.report is None:
            self._scan(wanted)
        self._note()

    def focus_step(self) -> None:
        """Type a path at once."""
        self.query_one(PathInput).focus()

    def leave_inner(self) -> bool:
        """Escape inside this step: close the tree, or cancel the scan. False if there was nothing to leave."""
        if tree := self.query(DataTree):
            tree.remove()
            self.query_one("#data-report").display = True
            self.focus_step()
            return True
        if self._scanning is not None:
            self._cancel()
            return True
        return False

    def _is_bundled(self) -> bool:
        return self.preset is not None and self.data == self.preset.data

    def _spec(self) -> DatasetSpec:
        preset = self.preset
        if preset is not None and preset.data.path and self.path == preset.data.path:
            return preset.data
        base = preset.data if preset is not None else DatasetSpec()
        path = str(absolute(self.path))
        return base.model_copy(update={"path": path, "eval_path": "", "format": "auto"})

    @on(Input.Submitted, "#data-path")
    def _enter(self) -> None:
        """Enter reads a new path, and goes on once it has been read and can be learned from."""
        if not self.path:
            self._say(Content.styled("Write the path of a file, or press ^t to choose one.", "$warning"))
            return
        spec = self._spec()
        if self._scanning == spec:
            self._advance = True
        elif self.data == spec and self.report is not None:
            self._accept()
        else:
            self._scan(spec)

    def _accept(self) -> None:
        if self.data is None or self.report is None:
            return
        if self.report.refused:
            first = self.report.problems[0]
            self._say(Content.styled(f"✗ These data cannot be learned from: {first.title}. {first.remedy}", "$error"))
            return
        self.post_message(self.Accepted(self.data, self.report))

    def _scan(self, spec: DatasetSpec) -> None:
        self._forget()
        self._scanning = spec
        bar = self.query_one("#data-progress", ProgressBar)
        bar.update(total=None)
        self.scan_file(spec)

    def _forget(self) -> None:
        self.data, self.report = None, None
        self._show_report(None)

    @work(thread=True, exclusive=True, group="scan", exit_on_error=False)
    def scan_file(self, spec: DatasetSpec) -> None:
        """Read the file through, in a thread; every message comes back to this widget."""
        worker = get_current_worker()
        began = told = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal told
            if worker.is_cancelled:
                raise ScanCancelled
            now = time.monotonic()
            if now - told >= TELL_INTERVAL_S:
                told = now
                self.post_message(self.Progressed(done, total, now - began))

        try:
            report = scan(spec, tell)
        except ScanCancelled:
            return
        except FinetuiError as error:
            self.post_message(self.Scanned(spec, None, time.monotonic() - began, error))
            return
        if not worker.is_cancelled:
            self.post_message(self.Scanned(spec, report, time.monotonic() - began))

    @on(Progressed)
    def _progress(self, event: Progressed) -> None:
        if self._scanning is None:
            return
        bar = self.query_one("#data-progress", ProgressBar)
        bar.display = True
        bar.update(total=event.total, progress=event.done)
        rate = event.done / max(event.seconds, 1e-3)
        left = format_duration((event.total - event.done) / max(rate, 1.0))
        done = f"{format_bytes(event.done)} of {format_bytes(event.total)}"
        self._say(Content(f"reading: {done} · {format_bytes(rate)}/s · {left} left · esc cancels"))

    @on(Scanned)
    def _scanned(self, event: Scanned) -> None:
        if event.data != self._scanning:
            return
        self._scanning = None
        self.query_one("#data-progress").display = False
        if event.error is not None:
            self._say(describe_error(event.error.title, event.error.detail, event.error.hints))
            return
        self.data, self.report = event.data, event.report
        self._show_report(event.report)
        self._note(event.seconds)
        if self._advance:
            self._advance = False
            self._accept()

    def _cancel(self) -> None:
        self._scanning = None
        self._advance = False
        self.workers.cancel_group(self, "scan")
        self.query_one("#data-progress").display = False
        self._say(Content.styled("Reading was cancelled. Enter reads the file again.", "$warning"))

    def _show_report(self, report: DatasetReport | None) -> None:
        self.query_one(ReportView).report = report
        self.query_one(RowView).report = report
        self._rule(report, 0)

    def _rule(self, report: DatasetReport | None, index: int) -> None:
        rule = self.query_one("#row-rule", Section)
        rule.display = report is not None and bool(report.sample)
        if report is not None and report.sample:
            rule.title = f"row {index + 1} of {report.rows:,}"
            rule.note = Content.assemble("learned: ", ("bright, underlined", TRAINED_STYLE))

    def _note(self, seconds: float | None = None) -> None:
        if self._scanning is not None:
            self._say(Content("reading …"))
        elif self.report is not None:
            took = f"read in {format_duration(seconds)}" if seconds is not None else ""
            bundled = "comes with the preset" if self._is_bundled() else ""
            self._say(Content.styled(" · ".join(part for part in (bundled, took) if part), "$quiet"))
        elif not self.path:
            self._say(Content.styled("tab completes a path · ^t shows the folders · enter reads the file", "$quiet"))

    def _say(self, text: Content) -> None:
        self.query_one("#data-note", Static).update(text)

    def action_row(self, by: int) -> None:
        """Show the next of the first rows."""
        view = self.query_one(RowView)
        if self.report is not None and self.report.sample:
            view.index = (view.index + by) % len(self.report.sample)
            self._rule(self.report, view.index)

    async def action_tree(self) -> None:
        """Show the folders, beginning where the path is."""
        if self.leave_inner():
            return
        start = absolute(self.path or ".")
        while not is_dir(start):
            start = start.parent
        tree = DataTree(start, id="data-tree")
        self.query_one("#data-report").display = False
        await self.mount(tree)
        tree.focus()

    @on(DirectoryTree.FileSelected)
    def _file_chosen(self, event: DirectoryTree.FileSelected) -> None:
        event.stop()
        self.leave_inner()
        self.query_one(PathInput).take(str(event.path))
        if not _is_text(event.path):
            self._forget()
            self._say(Content.styled("✗ This file's name is not UTF-8, so no plan can hold it: rename it.", "$error"))
            return
        self._scan(self._spec())
        self._note()


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 are lone surrogates in Python
        return False
    return True
