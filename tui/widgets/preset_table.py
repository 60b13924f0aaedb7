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
from engine.units import GIB, format_bytes
from tui.theme import LEVEL
from tui.widgets.columns import cell, line
from tui.widgets.preset_filter import matches

OTHER = "other"

SIZE, WEIGHTS, LICENCE = 5, 7, 10
"""Cells of the columns; the licence takes what is left, at least so much."""


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
    planned: str = ""
    """What the planner would make of it here."""


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
        return [row for row in self.rows if matches(row.preset, row.level, row.local, self.filter)]

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
        shown, every = len(self.shown), len(self.rows)
        name = f"model  {shown} of {every}" if self.filter else f"{every} models"
        names = (Content(name), Content("size"), Content("fits here"), Content("* gated"), Content("weights"))
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
        licence = preset.licence.removesuffix("-Community") + ("*" if preset.gated else "")
        there = Content.styled(_download(preset.download_bytes), "$quiet")
        return self._columns(
            Content(preset.name),
            Content(_size(preset.parameters)),
            Content.assemble((f"{mark.symbol} ", mark.style), row.fit),
            Content.styled(licence, "$quiet"),
            Content.styled("✓ here", "$success") if row.local else there,
        )

    def _columns(self, name: Content, size: Content, fit: Content, licence: Content, here: Content) -> Content:
        """The licence gets what is left, and goes where that is too little: it stands below or beside as well."""
        first = max((len(row.preset.name) for row in self.rows), default=8)
        verdict = max((len(row.fit) + 2 for row in self.rows), default=12)
        room = self.scrollable_content_region.width - 2
        verdict += min(room - first - SIZE - verdict - WEIGHTS - 3 * 2, 0)
        rest = room - first - SIZE - verdict - WEIGHTS - 4 * 2
        cells = [cell(name, first), cell(size, SIZE, right=True), cell(fit, verdict)]
        cells += [cell(licence, rest)] if rest >= LICENCE else []
        return line(*cells, cell(here, WEIGHTS, right=True))

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


def _size(parameters: int) -> str:
    """`8.0B`, `362M`."""
    return f"{parameters / 1e9:.1f}B" if parameters >= 999.5e6 else f"{parameters / 1e6:.3g}M"


def _download(size_bytes: int) -> str:
    """`7.5 GiB`, `15 GiB`."""
    return f"{size_bytes / GIB:.0f} GiB" if size_bytes >= 10 * GIB else format_bytes(size_bytes)
