"""A question whose answer is a line of text, with an optional yes or no beside it."""

from __future__ import annotations

from typing import NamedTuple

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Checkbox, Input, Static

from tui.widgets.clean_input import CleanInput


class Answer(NamedTuple):
    """What was typed, and whether the box was checked."""

    text: str
    checked: bool = False


class AskModal(ModalScreen[Answer | None]):
    """Asks for a line of text; None if the person left with Escape."""

    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel", key_display="esc")]

    def __init__(self, title: str, detail: str = "", value: str = "", option: str = "") -> None:
        super().__init__(classes="dialog")
        self._title, self._detail, self._value, self._option = title, detail, value, option

    def compose(self) -> ComposeResult:
        """The question, the line, the box if there is one."""
        with Vertical(classes="sheet ask"):
            yield Static(Content(self._title), classes="sheet-title")
            if self._detail:
                yield Static(Content(self._detail), classes="sheet-text")
            yield CleanInput(self._value, id="answer")
            if self._option:
                yield Checkbox(Content(self._option), id="option", compact=True)
            yield Static(Content.styled("enter ok    esc cancel", "$quiet"), classes="sheet-foot")

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one("#answer").focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """An empty line is no answer."""
        if event.value.strip():
            checked = bool(self._option) and self.query_one(Checkbox).value
            self.dismiss(Answer(event.value.strip(), checked))
