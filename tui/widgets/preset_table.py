"""The presets as a list of aligned columns that can be filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.config import Preset
from engine.events import Level
from engine.units import format_count
from tui.theme import LEVEL
from tui.widgets.columns import cell, line

OTHER = "other"


@dataclass(frozen=True)
class PresetRow:
    """One preset, with what this machine says to it."""

    preset: Preset
    level: Level
    """Whether it fits here: ok, warning (slow, or only with changes), error."""
    fit: str
    """The same in words."""
    local: bool
    """The weights are here already."""


class PresetTable(OptionList):
    """Presets in rows; the last row asks for a folder. Tells which one the cursor is on, and which is chosen."""

    BINDINGS = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
        Binding("g", "first", "First", show=False),
        Binding("G", "last", "Last", show=False),
        Binding("enter", "select", "Choose"),
    ]

    rows: reactive[Sequence[PresetRow]] = reactive((), init=False)
    filter: reactive[str] = reactive("", init=False)

    class Highlighted(Message):
        """The cursor is on a preset (None: on the row that asks for a folder)."""

        def __init__(self, row: PresetRow | None) -> None:
            super().__init__()
            self.row = row

    class Chosen(Message):
        """A preset was chosen (None: a folder is asked for)."""

        def __init__(self, row: PresetRow | None) -> None:
            super().__init__()
            self.row = row

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)

    @property
    def shown(self) -> list[PresetRow]:
        """The rows that the filter lets through."""
        words = self.filter.lower().split()
        return [row for row in self.rows if all(word in _searched(row) for word in words)]

    @property
    def current(self) -> PresetRow | None:
        """The preset under the cursor."""
        return self._row(self.highlighted)

    def choose(self, name: str) -> None:
        """Put the cursor on a preset."""
        for index, row in enumerate(self.shown):
            if row.preset.name == name:
                self.highlighted = index

    def watch_rows(self) -> None:
        """Draw anew."""
        self._rebuild()

    def watch_filter(self) -> None:
        """Draw what the filter lets through."""
        self._rebuild()

    def on_resize(self, _event: events.Resize) -> None:
        """Columns follow the width."""
        self._rebuild()

    def heading(self) -> Content:
        """The columns' names, on the same columns."""
        names = (Content("model"), Content("size"), Content("fits here"), Content("licence"), Content("here?"))
        return self._columns(*names).stylize("$quiet")

    def _rebuild(self) -> None:
        name = self.current.preset.name if self.current else None
        shown = self.shown
        self.clear_options()
        self.add_options([Option(self._prompt(row), id=f"preset-{at}") for at, row in enumerate(shown)])
        self.add_option(Option(Content.styled("+ a model folder or a preset file …", "$quiet"), id=OTHER))
        names = [row.preset.name for row in shown]
        self.highlighted = names.index(name) if name in names else 0

    def _prompt(self, row: PresetRow) -> Content:
        preset, mark = row.preset, LEVEL[row.level]
        return self._columns(
            Content(preset.name),
            Content(format_count(preset.parameters).replace(" ", "")),
            Content.assemble((f"{mark.symbol} ", mark.style), row.fit),
            Content.styled(preset.licence + (" · gated" if preset.gated else ""), "$quiet"),
            Content.styled("✓", "$success") if row.local else Content.styled("–", "$quiet"),
        )

    def _columns(self, name: Content, size: Content, fit: Content, licence: Content, here: Content) -> Content:
        widths = [max((len(row.preset.name) for row in self.rows), default=8), 7]
        widths.append(max((len(row.fit) + 2 for row in self.rows), default=12))
        room = self.scrollable_content_region.width - 2 - sum(widths) - 5 - 4 * 2
        widths[2] += min(room - 8, 0)
        return line(
            cell(name, widths[0]),
            cell(size, widths[1], right=True),
            cell(fit, widths[2]),
            cell(licence, max(room, 8)),
            cell(here, 5),
        )

    def _row(self, index: int | None) -> PresetRow | None:
        shown = self.shown
        return shown[index] if index is not None and index < len(shown) else None

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Say it in our own words."""
        event.stop()
        self.post_message(self.Highlighted(self._row(event.option_index)))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Say it in our own words."""
        event.stop()
        self.post_message(self.Chosen(self._row(event.option_index)))


def _searched(row: PresetRow) -> str:
    preset = row.preset
    return f"{preset.name} {preset.title} {preset.family} {preset.licence} {preset.good_at}".lower()
