"""A line for a path, completed from the file system, and the tree to choose a file from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.suggester import Suggester
from textual.widgets import DirectoryTree

from engine.datasets import hub
from engine.text import clean
from tui.widgets.clean_input import CleanInput

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
MANY = 5_000
"""Names of one folder that are looked at for a completion."""


class PathSuggester(Suggester):
    """Completes the last part of a path; folders end with a slash."""

    def __init__(self) -> None:
        super().__init__(use_cache=False, case_sensitive=True)

    async def get_suggestion(self, value: str) -> str | None:
        """The first path that begins like this, or None."""
        return await asyncio.to_thread(complete, value)


def complete(value: str) -> str | None:
    """The first file (of a kind that data come in) or folder, by name, whose path begins with `value`."""
    folder, slash, prefix = value.rpartition("/")
    if not value or prefix in (".", "..", "~"):
        return None
    try:
        names = sorted(_names(Path(folder + slash or ".").expanduser(), prefix))
    except (OSError, ValueError, RuntimeError):  # no such folder, not a path at all, or no such user's home
        return None
    return folder + slash + names[0] if names else None


def _names(folder: Path, prefix: str) -> Iterable[str]:
    for index, path in enumerate(folder.iterdir()):
        if index > MANY:
            return
        name = path.name
        if not name.startswith(prefix) or clean(name) != name or (name.startswith(".") and not prefix):
            continue
        if path.is_dir():
            yield f"{name}/"
        elif is_data(path):
            yield name


class PathInput(CleanInput):
    """Tab takes the completion; with none to take it moves on."""

    BINDINGS = [
        Binding("enter", "submit", "Next", tooltip="read the file; go on once it is read"),
        Binding("tab", "complete", "Complete", tooltip="take the completion that is shown"),
        Binding(
            "down", "app.focus_next", "Down", show=False, tooltip="what stands below: recent data, or what was found"
        ),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(
            placeholder="a file or a folder of data, or a data set's name on the Hugging Face hub",
            suggester=PathSuggester(),
            id=id,
            select_on_focus=False,
        )
        self._chosen = ""

    @property
    def path(self) -> str:
        """The path to open: what was typed, or the file that was chosen, whose name may hold what is not shown."""
        typed = self.value.strip()
        return self._chosen if self._chosen and typed == clean(self._chosen).strip() else typed

    def take(self, path: str) -> None:
        """Show a path that was not typed; it is opened as it is, whatever its name holds."""
        self._chosen = path
        self.value = path
        self.cursor_position = len(self.value)

    def action_complete(self) -> None:
        """Take the completion, or go on to the next widget."""
        if self._suggestion and self._suggestion != self.value:
            self.value = self._suggestion
            self.cursor_position = len(self.value)
        else:
            self.screen.focus_next()


class DataTree(DirectoryTree):
    """The folders and the files that data come in; names are shown as they are, never as markup."""

    BINDINGS = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("enter,l", "select_cursor", "Open", key_display="⏎", tooltip="open the folder, or take the file"),
        Binding("backspace,h", "up", "Up", key_display="⌫", tooltip="the folder above"),
        Binding("space", "take_folder", "Take folder", tooltip="take the folder under the cursor as one data set"),
    ]

    class FolderChosen(Message):
        """A folder with data files was taken as a whole."""

        def __init__(self, path: Path) -> None:
            super().__init__()
            self.path = path

    def action_up(self) -> None:
        """Show the folder above."""
        self.path = Path(self.path).parent

    def action_take_folder(self) -> None:
        """Take the folder under the cursor, or that of the file."""
        entry = self.cursor_node.data if self.cursor_node else None
        if entry is None:
            return
        folder = entry.path if is_dir(entry.path) else entry.path.parent
        if hub.hub_spec(str(folder)):
            self.post_message(self.FolderChosen(folder))
        else:
            self.app.notify("There are no data files in this folder.", severity="warning", markup=False)

    def process_label(self, label: str | Text) -> Text:
        """A file's name may hold brackets and escape sequences."""
        return Text(clean(label)) if isinstance(label, str) else label

    def filter_paths(self, paths: Iterable[Path]) -> Iterable[Path]:
        """No hidden names, no files of other kinds."""
        return [path for path in paths if not path.name.startswith(".") and (is_dir(path) or is_data(path))]


def is_data(path: Path) -> bool:
    """True for a file of a kind that data come in, by its name."""
    return path.suffix.lower() in SUFFIXES


def is_dir(path: Path) -> bool:
    """True for a folder; a name that no file can have, or may not be looked at, is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
