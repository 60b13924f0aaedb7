"""A question before something that cannot be undone."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Static


class ConfirmModal(ModalScreen[bool]):
    """Asks about one named thing; True if the person said yes. Escape and `n` are no, and no has the focus."""

    BINDINGS = [
        Binding("y", "answer(True)", "Yes"),
        Binding("n,escape,q", "answer(False)", "No", key_display="n"),
        Binding("left,h", "app.focus_previous", "Previous", show=False),
        Binding("right,l", "app.focus_next", "Next", show=False),
    ]

    def __init__(self, title: str, detail: str = "", yes: str = "Yes", no: str = "No") -> None:
        super().__init__(classes="dialog")
        self._title, self._detail, self._yes, self._no = title, detail, yes, no

    def compose(self) -> ComposeResult:
        """A title, what will happen, two buttons."""
        with Vertical(classes="sheet"):
            yield Static(Content(self._title), classes="sheet-title")
            yield Static(Content(self._detail), classes="sheet-text")
            with Horizontal(classes="sheet-buttons"):
                yield Button(Content(self._no), id="no", compact=True)
                yield Button(Content(self._yes), id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        """The harmless answer has the focus."""
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button was chosen."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """A key was chosen."""
        self.dismiss(yes)
