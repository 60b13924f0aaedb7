"""Settings in rows: up and down choose one, left and right change it, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from tui.widgets.columns import cell, line


@dataclass(frozen=True)
class FormRow:
    """One setting as it stands."""

    name: str
    label: str
    value: str
    note: str = ""
    """What follows from the value."""
    help: str = ""
    """One sentence on what the setting does."""
    default: str = ""
    """What it is if nobody changes it, and why."""
    changed: bool = False
    """It was changed by hand."""


class PlanForm(Widget, can_focus=True):
    """The rows, the cursor, and under them the sentence of help for the row with the cursor."""

    DEFAULT_CSS = "PlanForm { height: auto; }"
    BINDINGS = [
        Binding("r", "reset", "Reset", show=False, tooltip="this setting as it would be chosen"),
        Binding("up,k", "move(-1)", "Up", show=False, tooltip="the setting above"),
        Binding("down,j", "move(1)", "Down", show=False, tooltip="the setting below"),
        Binding("left,h", "change(-1)", "Change", key_display="←→", tooltip="less, or the choice before"),
        Binding("right,l", "change(1)", "More", show=False, tooltip="more, or the next choice"),
    ]

    rows: reactive[Sequence[FormRow]] = reactive((), layout=True)
    cursor: reactive[int] = reactive(0)

    class Changed(Message):
        """A setting is to be one step less (-1) or more (1)."""

        def __init__(self, name: str, direction: int) -> None:
            super().__init__()
            self.name = name
            self.direction = direction

    class Reset(Message):
        """A setting is to be what it would be without the person."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """One line a row, and under a free line the longest help."""
        return len(self.rows) + 1 + max((len(self._help(row, width)) for row in self.rows), default=0)

    def render(self) -> RenderResult:
        """Every row, and the help."""
        lines = [self._line(index, row) for index, row in enumerate(self.rows)]
        told = self._help(self.rows[self.cursor], self.content_size.width) if self.cursor < len(self.rows) else []
        return Content("\n").join([*lines, Content(""), *told])

    def _help(self, row: FormRow, width: int) -> list[Content]:
        """The help, the default, and the note where its row has no room for it."""
        told = [(row.help, "$quiet"), (row.default, "$quiet")]
        told = [*told, (row.note, "")] if len(row.note) > self._room(width) else told
        return [Content.styled(part, style) for text, style in told for part in wrap(text, max(width - 2, 20))]

    def _room(self, width: int) -> int:
        """Cells for a note."""
        label = max((len(each.label) for each in self.rows), default=0)
        value = max((len(each.value) for each in self.rows), default=0)
        return width - (2 + label) - (2 + value + 2) - 2 - 2 * 2

    def _line(self, index: int, row: FormRow) -> Content:
        here = index == self.cursor
        label = max((len(each.label) for each in self.rows), default=0)
        value = max((len(each.value) for each in self.rows), default=0)
        arrows = "$primary" if here else "$rule"
        style = "bold $tuned" if row.changed else "bold" if here else ""
        parts = [
            Content.assemble(("▸ " if here and self.has_focus else "  ", "$primary"), cell(row.label, label)),
            Content.assemble(("‹ ", arrows), cell(row.value, value, style, right=True), (" ›", arrows)),
        ]
        mark = Content.styled("●" if row.changed else " ", "$tuned")
        return line(*parts, Content.assemble(mark, " ", cell(row.note, self._room(self.content_size.width), "$quiet")))

    def action_move(self, by: int) -> None:
        """Move the cursor, stopping at the ends."""
        self.cursor = min(max(self.cursor + by, 0), max(len(self.rows) - 1, 0))

    def action_change(self, by: int) -> None:
        """Ask for the setting under the cursor to change."""
        if self.rows:
            self.post_message(self.Changed(self.rows[self.cursor].name, by))

    def action_reset(self) -> None:
        """Ask for the setting under the cursor to be given back."""
        if self.rows:
            self.post_message(self.Reset(self.rows[self.cursor].name))

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on the row."""
        if 0 <= event.y < len(self.rows):
            self.cursor = event.y
