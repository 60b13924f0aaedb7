"""Which GGUF files to make: a list to tick, each with its size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import RenderResult
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from engine.config import Quant
from engine.units import format_bytes
from tui.widgets.columns import cell, line

GOOD_FOR: dict[Quant, str] = {
    "bf16": "always made: the measure of the others",
    "Q8_0": "next to no loss",
    "Q6_K": "hardly any loss",
    "Q5_K_M": "small loss",
    "Q5_K_S": "small loss, a little smaller",
    "Q4_K_M": "the usual choice",
    "Q4_K_S": "a little smaller than the usual",
    "Q3_K_M": "noticeable loss",
    "Q2_K": "only if nothing else fits",
}


@dataclass(frozen=True)
class QuantRow:
    """One precision of the file."""

    quant: Quant
    size_bytes: int
    """Of the file, or about what it will be."""
    made: bool


class QuantPicker(Widget, can_focus=True):
    """Space ticks; bf16 is always made and cannot be ticked off."""

    DEFAULT_CSS = "QuantPicker { height: auto; }"
    BINDINGS = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("space", "tick", "Choose", tooltip="make this file, or not"),
    ]

    rows: reactive[Sequence[QuantRow]] = reactive((), layout=True)
    chosen: reactive[frozenset[Quant]] = reactive(frozenset())
    cursor: reactive[int] = reactive(0)

    class Changed(Message):
        """Another choice."""

        def __init__(self, chosen: frozenset[Quant]) -> None:
            super().__init__()
            self.chosen = chosen

    def get_content_height(self, *_: object) -> int:
        """A line a precision, or one in all."""
        return 1 if self.folded else max(len(self.rows), 1)

    @property
    def folded(self) -> bool:
        """Where there is little room, the list is one line until it has the keys."""
        return not self.has_focus and self.screen.has_class("-narrow")

    def watch_has_focus(self, focused: bool) -> None:
        """Fold or unfold."""
        super().watch_has_focus(focused)
        self.refresh(layout=True)

    def render(self) -> RenderResult:
        """Every precision, or those that are ticked."""
        if self.folded:
            return self._ticked()
        return Content("\n").join([self._line(index, row) for index, row in enumerate(self.rows)])

    def _ticked(self) -> Content:
        """What is ticked, on one line."""
        names: list[Content] = []
        for row in self.rows:
            if row.quant in self.chosen or row.quant == "bf16":
                mark = ("✓ ", "$success") if row.made else ("■ ", "$primary")
                names.append(Content.assemble(mark, row.quant, (f" {format_bytes(row.size_bytes)}", "$quiet")))
        text = Content.assemble("  ", Content("   ").join(names), ("   tab chooses", "$quiet"))
        return text.truncate(self.content_size.width, ellipsis=True)

    def _line(self, index: int, row: QuantRow) -> Content:
        here = index == self.cursor and self.has_focus
        ticked = row.quant in self.chosen or row.quant == "bf16"
        box = Content.styled("■" if ticked else "□", "$primary" if ticked and row.quant != "bf16" else "$quiet")
        about = "" if row.made else "~"
        name = cell(row.quant, 7, "bold" if ticked else "")
        text = line(
            Content.assemble(("▸ " if here else "  ", "$primary"), box, " ", name),
            cell(about + format_bytes(row.size_bytes), 9, right=True),
            Content.styled("✓ made", "$success") if row.made else Content.styled(GOOD_FOR[row.quant], "$quiet"),
        )
        return text.truncate(self.content_size.width, ellipsis=True)

    def action_move(self, by: int) -> None:
        """Move the cursor, stopping at the ends."""
        self.cursor = min(max(self.cursor + by, 0), max(len(self.rows) - 1, 0))

    def action_tick(self) -> None:
        """Tick or untick."""
        if not self.rows or self.rows[self.cursor].quant == "bf16":
            return
        self.chosen = self.chosen ^ {self.rows[self.cursor].quant}
        self.post_message(self.Changed(self.chosen))

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on the row; on its box it ticks."""
        if 0 <= event.y < len(self.rows):
            self.cursor = event.y
            if event.x < 5:
                self.action_tick()
