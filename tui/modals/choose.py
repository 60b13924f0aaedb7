"""A choice of one among a few."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option


class ChooseModal(ModalScreen[int | None]):
    """The index of what was chosen; None if the person left with Escape."""

    BINDINGS = [
        Binding("escape,q", "dismiss(None)", "Cancel", key_display="esc"),
        Binding("j", "move('down')", "Down", show=False),
        Binding("k", "move('up')", "Up", show=False),
    ]
    DEFAULT_CSS = "ChooseModal OptionList { width: 50; max-width: 100%; height: auto; background: $panel; }"

    def __init__(self, title: str, choices: Sequence[str]) -> None:
        super().__init__(classes="dialog")
        self._title, self._choices = title, choices

    def compose(self) -> ComposeResult:
        """The question and the choices."""
        with Vertical(classes="sheet"):
            yield Static(Content(self._title), classes="sheet-title")
            yield OptionList(*(Option(Content(choice)) for choice in self._choices), markup=False, compact=True)
            yield Static(Content.styled("enter choose    esc cancel", "$quiet"), classes="sheet-foot")

    def on_mount(self) -> None:
        """The list has the keys."""
        self.query_one(OptionList).focus()

    def action_move(self, way: str) -> None:
        """As the arrow keys."""
        options = self.query_one(OptionList)
        options.action_cursor_down() if way == "down" else options.action_cursor_up()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Chosen."""
        self.dismiss(event.option_index)
