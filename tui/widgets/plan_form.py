"""Settings in rows: up and down choose one, left and right change it, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    changed: bool = False
    """It differs from the preset."""


class PlanForm(Widget, can_focus=True):
    """The rows, the cursor, and under them the sentence of help for the row with the cursor."""

    DEFAULT_CSS = "PlanForm { height: auto; }"
    BINDINGS = [
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

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """One line a row, and three for the help."""
        return len(self.rows) + 3

    def render(self) -> RenderResult:
        """Every row, and the help."""
        lines = [self._line(index, row) for index, row in enumerate(self.rows)]
        text = self.rows[self.cursor].help if self.cursor < len(self.rows) else ""
        return Content("\n").join([*lines, Content(""), Content.styled(text, "$quiet")])

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
        room = self.content_size.width - sum(part.cell_length for part in parts) - 4
        return line(*parts, cell(row.note, room, "$quiet"))

    def action_move(self, by: int) -> None:
        """Move the cursor, stopping at the ends."""
        self.cursor = min(max(self.cursor + by, 0), max(len(self.rows) - 1, 0))

    def action_change(self, by: int) -> None:
        """Ask for the setting under the cursor to change."""
        if self.rows:
            self.post_message(self.Changed(self.rows[self.cursor].name, by))

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on the row."""
        if 0 <= event.y < len(self.rows):
            self.cursor = event.y
