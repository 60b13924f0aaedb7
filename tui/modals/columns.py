"""How the rows are written, said by the person: another format, or which column holds what; the first row shows it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.text import clean_line
from tui.widgets.columns import Section
from tui.widgets.plan_form import FormRow, PlanForm

FORMAT = "format"
COLUMNS = "columns"
"""The format that a mapping makes."""
UNUSED = "–"
PARTS = ("system", "user", "assistant", "text")
LABEL_WIDTH = 22
_NEXT = re.compile(r",\s*(?=\w+\s*=)")
_JOINED = re.compile(r"\{[^{}]+\}(\n\{[^{}]+\})+")


class Column(NamedTuple):
    """A column of the data, with what stands in it somewhere."""

    name: str
    sample: str


class Choice(NamedTuple):
    """How the rows are written."""

    format: str
    columns: str = ""
    """`user=question, assistant=reply`, where the format is `columns`."""


Preview = Callable[[Choice], Content]
"""The first row, read in this way."""


def mapping_text(parts: Mapping[str, str]) -> str:
    """Column → part, as `DatasetSpec.columns` has it; columns of the same part are joined, each on its line."""
    words = []
    for part in PARTS:
        names = [name for name, taken in parts.items() if taken == part]
        if names:
            words.append(f"{part}={names[0] if len(names) == 1 else chr(10).join(f'{{{name}}}' for name in names)}")
    return ", ".join(words)


def mapped_parts(text: str) -> dict[str, str]:
    """Column → part: the other way round; a text with columns in it that a person wrote stands for itself."""
    parts = {}
    for piece in _NEXT.split(text):
        part, _, value = piece.partition("=")
        joined = _JOINED.fullmatch(value.strip())
        for name in joined[0][1:-1].split("}\n{") if joined else [value.strip()]:
            parts[name] = part.strip()
    return parts


def is_whole(parts: Iterable[str]) -> bool:
    """True if these parts make a row: a user and an assistant, or text alone."""
    taken = {*parts} - {UNUSED}
    return taken == {"text"} or {"user", "assistant"} <= taken <= {"system", "user", "assistant"}


class ColumnsModal(ModalScreen[Choice | None]):
    """A form: the format, then a row for each column. None if the person left with Escape."""

    BINDINGS = [
        Binding("escape,q", "dismiss(None)", "Cancel", key_display="esc"),
        Binding("enter", "take", "Take"),
    ]

    def __init__(self, formats: Mapping[str, str], columns: Sequence[Column], chosen: Choice, preview: Preview) -> None:
        """`formats`: name → what it is, in the order to offer them; `chosen` is how the rows are read now."""
        super().__init__(classes="dialog")
        self._formats = dict(formats)
        self._columns = columns
        self._preview = preview
        self._format = chosen.format
        known = mapped_parts(chosen.columns)
        self._parts = {column.name: known.get(column.name, UNUSED) for column in columns}

    def compose(self) -> ComposeResult:
        """The form, and what comes of it."""
        with Vertical(classes="sheet", id="columns-sheet"):
            yield Static(Content("How are the rows written?"), classes="sheet-title")
            with VerticalScroll(id="columns-form", can_focus=False):
                yield PlanForm(id="columns")
            yield Section("the first row, read like this")
            with VerticalScroll(id="columns-preview", can_focus=False):
                yield Static(id="columns-row")
            yield Static(
                Content.styled("↑↓ choose    ←→ change    enter take    esc leave", "$quiet"), classes="sheet-foot"
            )

    def on_mount(self) -> None:
        """The form has the keys."""
        self._fill()
        form = self.query_one(PlanForm)
        self.watch(form, "cursor", self._follow, init=False)
        form.focus()
        if self._format == COLUMNS and self._columns:
            form.cursor = 1

    def _follow(self, cursor: int) -> None:
        self.query_one("#columns-form").scroll_to_region(Region(0, cursor, 1, 1), animate=False)

    @property
    def choice(self) -> Choice:
        """What the form says now."""
        return Choice(self._format, mapping_text(self._parts) if self._format == COLUMNS else "")

    def _fill(self) -> None:
        rows = [FormRow(FORMAT, FORMAT, self._format, "", self._formats.get(self._format, ""))]
        for column in self._columns:
            part = self._parts[column.name]
            used = self._format == COLUMNS and part != UNUSED
            help = "Which part of a conversation this column holds; text alone is learned as it stands."
            label = clean_line(column.name, LABEL_WIDTH)
            rows.append(FormRow(column.name, label, part, column.sample, help, changed=used))
        self.query_one(PlanForm).rows = rows
        self.query_one("#columns-row", Static).update(self._preview(self.choice))

    def on_plan_form_changed(self, event: PlanForm.Changed) -> None:
        """Another format, or another part for a column, which makes it a mapping of columns."""
        event.stop()
        if event.name == FORMAT and self.query_one(PlanForm).cursor == 0:
            self._format = _next(list(self._formats), self._format, event.direction)
        else:
            self._parts[event.name] = _next([UNUSED, *PARTS], self._parts[event.name], event.direction)
            self._format = COLUMNS
        self._fill()

    def action_take(self) -> None:
        """Read the data like this, once it is said what the columns are."""
        if self._format != COLUMNS or is_whole(self._parts.values()):
            self.dismiss(self.choice)


def _next(choices: Sequence[str], value: str, by: int) -> str:
    at = choices.index(value) if value in choices else 0
    return choices[(at + by) % len(choices)]
