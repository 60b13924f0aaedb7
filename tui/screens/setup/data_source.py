"""Where the data come from: a line for a path or a data set's name, the folders, and what was used before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.widgets import DirectoryTree, Input, OptionList, Static

from engine.config import DatasetSpec
from engine.datasets import hub
from engine.errors import FinetuiError
from engine.paths import absolute
from tui.messages import Problem
from tui.modals.columns import Choice
from tui.screens.setup import row_format
from tui.screens.setup.path_input import DataTree, PathInput, is_dir
from tui.screens.setup.recent import Recent, RecentList, recent_data, remember

_WORDS = re.compile(r"(\S+)((?:\s+(?:subset|split)=\S+)+)")
"""A data set of the hub with what to take of it: `org/name subset=en split=train[:1000]`."""


class DataSource(Container):
    """The line; below it the tree, or the recent data while nothing stands in the line."""

    BINDINGS = [Binding("ctrl+t", "tree", "Files", key_display="^t", tooltip="choose a file from the folders")]

    @dataclass
    class Submitted(Message):
        """Enter was pressed in the line; the data are None if it is empty."""

        data: DatasetSpec | None

    @dataclass
    class Chosen(Message):
        """Data were chosen without typing; they stand in the line now."""

        data: DatasetSpec

    @dataclass
    class Rearranged(Message):
        """The line was emptied or filled, or the tree came or went."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.bundled = DatasetSpec()
        """The preset's own data."""
        self._stands_for: DatasetSpec | None = None
        """What the line means, where it means more than a file: columns, a file of held-out rows."""
        self._recent: list[Recent] = []

    def compose(self) -> ComposeResult:
        """The line, and the list below it."""
        with Horizontal(id="data-line"):
            yield Static("data", id="data-label")
            yield PathInput(id="data-path")
        yield RecentList(id="data-recent", markup=False)

    def on_mount(self) -> None:
        """Nothing is known yet."""
        self._arrange()

    @property
    def line(self) -> PathInput:
        """Where one types."""
        return self.query_one(PathInput)

    @property
    def browsing(self) -> bool:
        """True while the tree is open."""
        return bool(self.query(DataTree))

    @property
    def empty(self) -> bool:
        """True while nothing stands in the line."""
        return not self.line.path

    def take(self, data: DatasetSpec | None) -> None:
        """Put data into the line that were not typed."""
        self._stands_for = data
        self.line.take(data.path if data else "")
        self._arrange()

    def choose(self, data: DatasetSpec) -> None:
        """Put data into the line, and open them."""
        self.take(data)
        self.post_message(self.Chosen(data))

    @property
    def data(self) -> DatasetSpec | None:
        """What the line means; None if it is empty."""
        path = self.line.path
        for known in (self._stands_for, self.bundled):
            if known is not None and path == known.path:
                return known if path else None
        return named(path) if path else None

    def _arrange(self) -> None:
        self.set_class(self.browsing, "-browsing")
        self.query_one(RecentList).display = bool(self._recent) and self.empty and not self.browsing
        self.post_message(self.Rearranged())

    @on(Input.Changed, "#data-path")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._arrange()

    @on(Input.Submitted, "#data-path")
    def _enter(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(self.Submitted(self.data))

    # ── how the rows are written ─────────────────────────────────────────────────────────────────────────

    @work(thread=True, exclusive=True, group="peek")
    def ask_format(self, asked: DatasetSpec, data: DatasetSpec, detected: str) -> None:
        """Read the first rows of `data` in a thread, and ask how those of `asked` are to be read."""
        try:
            peeked = row_format.peek(data)
        except FinetuiError as error:
            self.post_message(Problem(error))
            return
        self.app.call_from_thread(self._show_form, peeked, asked, detected)

    def _show_form(self, peeked: row_format.Peek, asked: DatasetSpec, detected: str) -> None:
        def chosen(choice: Choice | None) -> None:
            if choice is not None:
                self.choose(row_format.chosen(asked, choice))

        self.app.push_screen(row_format.form(peeked, asked, detected), chosen)

    # ── recent data ──────────────────────────────────────────────────────────────────────────────────────

    @work(thread=True, exclusive=True, group="recent")
    def load_recent(self) -> None:
        """Look for what was used before, in a thread: every run's plan is read."""
        self.app.call_from_thread(self._show_recent, recent_data())

    def _show_recent(self, recent: Sequence[Recent]) -> None:
        self._recent = list(recent)
        self.query_one(RecentList).show(recent)
        self._arrange()

    @work(thread=True, group="remember")
    def remember(self, data: DatasetSpec) -> None:
        """These data were accepted."""
        remember(data)

    @on(OptionList.OptionSelected, "#data-recent")
    def _recent_chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.choose(self._recent[event.option_index].data)

    # ── the tree ─────────────────────────────────────────────────────────────────────────────────────────

    def action_tree(self) -> None:
        """Show the folders, beginning where the path is (the preset's own data are not ours); or close them."""
        if self.browsing:
            self.close_tree()
            return
        start = absolute("." if self.line.path == self.bundled.path else self.line.path or ".")
        while not is_dir(start):
            start = start.parent
        tree = DataTree(start, id="data-tree")
        self.mount(tree)
        self._arrange()
        tree.focus()

    def close_tree(self) -> None:
        """Back to the line."""
        self.query(DataTree).remove()
        self._arrange()
        self.line.focus()

    @on(DirectoryTree.FileSelected)
    def _file_chosen(self, event: DirectoryTree.FileSelected) -> None:
        event.stop()
        self._path_chosen(event.path)

    @on(DataTree.FolderChosen)
    def _folder_chosen(self, event: DataTree.FolderChosen) -> None:
        event.stop()
        self._path_chosen(event.path)

    def _path_chosen(self, path: Path) -> None:
        self.close_tree()
        self.line.take(str(path))
        data = self.data
        if data is not None:
            self.post_message(self.Chosen(data))


def named(text: str) -> DatasetSpec:
    """The data that a line names: a file, a folder of data files, or a data set of the hub."""
    path, words = text, {}
    if (match := _WORDS.fullmatch(text)) and hub.hub_spec(match[1]):
        path, words = match[1], dict(word.split("=", 1) for word in match[2].split())
    on_hub = hub.hub_spec(path) and not is_dir(absolute(path))
    return DatasetSpec(path=path if on_hub else str(absolute(path)), **words)
