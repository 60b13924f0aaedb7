"""Step two: what to learn from. Where the data come from; what the check finds, as it finds it; what can be done."""

from __future__ import annotations

from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive

from engine.config import DatasetSpec
from engine.datasets import FORMATS
from engine.datasets.report import DatasetReport
from engine.gpu import GpuReading
from engine.text import clean_line
from tui.modals.ask import Answer, AskModal
from tui.screens.setup import limit, row_format
from tui.screens.setup.data_check import DataCheck, describe
from tui.screens.setup.data_copy import DataCopy, is_fixable
from tui.screens.setup.data_source import DataSource
from tui.screens.setup.data_view import DataView
from tui.screens.setup.draft import Draft

HINT = (
    "tab completes a path · ^t shows the folders · enter reads\n"
    "a Hugging Face data set: org/name, where needed with subset=… split=…\n\n"
    "JSON Lines, JSON, CSV, TSV, Parquet, or plain text. Each row is a conversation, as\n"
    f"{FORMATS['messages'].example}\n"
    "or a question with its answer; how it is written is found out."
)

IN_LINE, IN_VIEW = "tab to findings, limit and rows", "o other data · m format · tab row"
IN_TREE = "enter takes a file · space a folder"
"""What the keys do; letters are letters in the line."""


class DataStep(Container):
    """The source, the check, and the view of what is known."""

    BINDINGS = [Binding("ctrl+t", "tree", "Files", show=False, tooltip="choose a file from the folders")]

    draft: reactive[Draft] = reactive(Draft(), init=False)
    gpu: reactive[GpuReading | None] = reactive(None, init=False)

    class Accepted(Message):
        """Step two is answered."""

        def __init__(self, data: DatasetSpec, report: DatasetReport) -> None:
            super().__init__()
            self.data = data
            self.report = report

    class Changed(Message):
        """The limit was moved; the draft is the whole new one."""

        def __init__(self, draft: Draft) -> None:
            super().__init__()
            self.draft = draft

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._hand_over = False
        """What was found gets the keys as soon as the data are read."""
        self._empty = True
        """Nothing stood in the line when it was last looked at."""
        self._named = ""
        """What stood in the line when the data were opened."""
        self._told: Content | None = None
        """What there is to say of the data that are open: what a copy left out, that a file has changed."""

    def compose(self) -> ComposeResult:
        """Two lines, and the rest of the room for what there is to see."""
        yield DataSource(id="data-source")
        yield DataCheck(id="data-check")
        yield DataCopy(id="data-copy")
        yield DataView(id="data-view")

    @property
    def source(self) -> DataSource:
        """Where the data come from."""
        return self.query_one(DataSource)

    @property
    def check(self) -> DataCheck:
        """The data that are open."""
        return self.query_one(DataCheck)

    @property
    def copy(self) -> DataCopy:
        """A cleaned copy of them that is being written."""
        return self.query_one(DataCopy)

    @property
    def view(self) -> DataView:
        """What is shown of them."""
        return self.query_one(DataView)

    # ── coming and going ─────────────────────────────────────────────────────────────────────────────────

    def enter(self, draft: Draft) -> None:
        """Begin this step: the draft's data, else those of before, else the preset's own, are read at once."""
        before = None if self.draft.is_bundled(self.check.asked) else self.check.asked
        self.draft = draft
        self.check.awaited = self._hand_over = False
        if draft.preset is None or draft.tuned is None:
            return
        self.source.bundled = draft.preset.data
        self.source.load_recent()
        wanted = draft.data or before or (draft.preset.data if draft.preset.data.path else None)
        if wanted is None:
            self.source.take(None)
            self.check.forget()
            self._hint()
        elif not self._is_open(wanted) or self.check.outdated or not self.check.resume(draft.tuned):
            self.source.take(wanted)
            self._open(wanted)

    def _is_open(self, data: DatasetSpec) -> bool:
        return self.draft.settled(data) in (self.check.data, self.check.asked)

    def leave(self) -> None:
        """This step is left: nothing runs on."""
        self.copy.cancel()
        self.check.close()

    def focus_step(self) -> None:
        """Type a path at once."""
        self.source.line.focus()

    def leave_inner(self) -> bool:
        """Escape inside this step: close the tree, or stop what runs. False if there was nothing to leave."""
        if self.source.browsing:
            self.source.close_tree()
            return True
        self.check.awaited = False
        return self.copy.cancel() or self.check.stop()

    # ── which data ───────────────────────────────────────────────────────────────────────────────────────

    @on(DataSource.Submitted)
    def _enter(self, event: DataSource.Submitted) -> None:
        self._submit(event.data)

    def _submit(self, data: DatasetSpec | None) -> None:
        """Enter reads new data, and goes on once they have been read and can be learned from."""
        if data is None:
            self._say(Content.styled("Write the path of a file, or press ^t to choose one.", "$warning"))
        elif self.draft.settled(data) == self.check.asked and self.check.state != "idle":
            self._go_on()
        else:
            self._hand_over = True
            self._open(data)

    @on(DataSource.Chosen)
    def _chosen(self, event: DataSource.Chosen) -> None:
        self._hand_over = True
        self._open(event.data)

    @on(DataCopy.Written)
    def _written(self, event: DataCopy.Written) -> None:
        self.source.take(event.data)
        self._hand_over = True
        self._open(event.data, event.told)

    def _open(self, data: DatasetSpec, told: Content | None = None) -> None:
        self._told, self._named = told, self.source.line.path
        self.focus_step()  # the view goes until there is something to see
        self.view.forget()
        if not _is_text(data.path):
            self.check.forget()
            self._say(Content.styled("✗ This file's name is not UTF-8, so no plan can hold it: rename it.", "$error"))
        elif self.draft.tuned is not None:
            self.check.open(self.draft.settled(data), self.draft.tuned)

    def _read_anew(self) -> bool:
        """Open the data again if their files are no longer those that were read; False if they are."""
        data = self.check.asked
        if data is None or not self.check.outdated:
            return False
        if self.source.line.path != self._named:
            self.source.take(data)
        self._hand_over = True
        self._open(data, Content.styled("! The file has changed since it was read; this is how it is now.", "$warning"))
        return True

    def _go_on(self) -> None:
        check = self.check
        if self._read_anew():
            return
        if not check.readable:
            check.awaited = True
        elif self.view.report is not None and check.data is not None and not self._refuse(self.view.report):
            self.source.remember(check.asked or check.data)
            self.post_message(self.Accepted(check.data, self.view.report))

    def _refuse(self, report: DatasetReport) -> bool:
        if report.refused:
            first = report.problems[0]
            words = f"✗ These data cannot be learned from: {first.title}. {first.remedy}"
            self._say(Content.styled(words, "$error"))
        return report.refused

    # ── what the check says ──────────────────────────────────────────────────────────────────────────────

    @on(DataCheck.Changed)
    def _checked(self) -> None:
        check = self.check
        self._show_report()
        self._arrange()
        if check.state == "done":
            self._hint()
        if check.readable and check.awaited:
            check.awaited = False
            self._go_on()
        elif check.readable and self._hand_over:
            self._hand_over = False
            named = self.source.data
            if self.source.line.has_focus and named is not None and self.draft.settled(named) == check.asked:
                self.view.focus_view()

    @on(DataCheck.Shown)
    def _shown(self, event: DataCheck.Shown) -> None:
        if event.row is None:
            done = self.check.state == "done"
            words = "No row has a finding." if done else "No row has a finding so far; the check is not at its end."
            self.app.notify(words, markup=False)
        else:
            self.view.row = event.row

    def _hint(self) -> None:
        if self.check.report is None or self.source.empty:
            self._say(Content.styled(HINT, "$quiet"))
            return
        fault = describe(self.check.fault) if self.check.fault else None
        lines = (self._told, fault, row_format.way_out(self.check.report, self.check.rows) or self._keys())
        self._say(Content("\n").join(line for line in lines if line))

    def _keys(self) -> Content:
        """What the line under the path says when there is nothing else to say."""
        read = clean_line(Path(self._named).name)
        if self.source.line.path != self._named:
            return Content.styled(f"enter reads it; what stands below is still {read}", "$warning")
        bundled = "the preset's own" if self.draft.is_bundled(self.check.asked) else ""
        keys = IN_TREE if self.source.browsing else IN_LINE if self.source.line.has_focus else IN_VIEW
        return Content.styled(" · ".join(filter(None, (bundled, self.check.took(), keys))), "$quiet")

    def on_descendant_focus(self) -> None:
        """Letters are letters in the line, keys elsewhere."""
        if self.check.state == "done":
            self._hint()

    def _say(self, text: Content) -> None:
        self.check.tell(text)

    @on(DataSource.Rearranged)
    def _arrange(self) -> None:
        source = self.source
        self.view.display = self.check.report is not None and not source.empty and not source.browsing
        if self.check.state == "done" or (self.check.state == "idle" and source.empty != self._empty):
            self._hint()
        self._empty = source.empty

    def action_tree(self) -> None:
        """Show the folders, or close them."""
        self.source.action_tree()

    # ── the keys of the view ─────────────────────────────────────────────────────────────────────────────

    @on(DataView.RowWanted)
    def _row(self, event: DataView.RowWanted) -> None:
        if not self._read_anew():
            self.check.row(event.index, self._max_length)

    @on(DataView.FindingWanted)
    def _finding(self, event: DataView.FindingWanted) -> None:
        if not self._read_anew():
            self.check.find(event.index, event.back, self._max_length)

    @on(DataView.LimitMoved)
    def _limit(self, event: DataView.LimitMoved) -> None:
        self.draft = limit.moved(self.draft, event.by)
        self.post_message(self.Changed(self.draft))

    @on(DataView.Wanted)
    def _wanted(self, event: DataView.Wanted) -> None:
        match event.verb:
            case "accept":
                self._submit(self.source.data)
            case "path":
                self.source.line.focus()
                self.source.line.action_select_all()
            case "go":
                self.app.push_screen(AskModal("Which row?", f"1 to {self.view.rows:,}"), self._go_to)
            case "fix" if self.check.data is not None:
                self.copy.ask(self.check.data)
            case "format" if self.check.data is not None and self.check.asked is not None:
                report = self.check.report
                self.source.ask_format(self.check.asked, self.check.data, report.format if report else "")

    def _go_to(self, answer: Answer | None) -> None:
        number = answer.text.replace(",", "") if answer else ""
        if number.isdecimal() and int(number):
            self.view.want_row(min(int(number), self.view.rows or int(number)) - 1)

    def watch_draft(self) -> None:
        """The limit may be another."""
        self._show_report()

    def watch_gpu(self) -> None:
        """What the limit costs in memory."""
        self._show_report()

    @property
    def _max_length(self) -> int:
        return self.draft.tuned.train.max_length if self.draft.tuned else 0

    def _show_report(self) -> None:
        check, tuned, view = self.check, self.draft.tuned, self.view
        if check.report is None or tuned is None:
            view.report = None
            return
        view.rows = check.rows
        view.report = limit.at_limit(check.report, self._max_length)
        view.forced = row_format.is_forced(check.asked)
        view.fixable = is_fixable(check.report)
        view.limit = 0 if check.report.kind == "text" else self._max_length
        view.cost = limit.cost(check.report, tuned, self.gpu, check.note)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # bytes that are no UTF-8 are lone surrogates in Python
        return False
    return True
