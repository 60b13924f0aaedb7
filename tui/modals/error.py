"""A fault, in the same words as on the command line."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from engine.errors import FinetuiError
from engine.text import clean


def describe_error(title: str, detail: str = "", hints: Sequence[str] = ()) -> Content:
    """Title, detail and what to do, as every part of the app shows them. Cleaned here once more."""
    lines = [Content.styled(f"✗ {clean(title)}", "bold $error")]
    if detail:
        lines.append(Content(clean(detail)))
    lines += [Content.assemble(("→ ", "$primary"), clean(hint)) for hint in hints]
    return Content("\n").join(lines)


class ErrorModal(ModalScreen[None]):
    """Shows a `FinetuiError`: what, where, and what to do next."""

    BINDINGS = [
        Binding("escape,enter,q", "dismiss", "Close", key_display="esc"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, error: FinetuiError) -> None:
        super().__init__(classes="dialog")
        self.error = error

    def compose(self) -> ComposeResult:
        """The words, scrollable where they are many, and how to leave."""
        with Vertical(classes="sheet"):
            with VerticalScroll(classes="sheet-scroll"):
                yield Static(describe_error(self.error.title, self.error.detail, self.error.hints))
            yield Static(Content.styled("esc close", "$quiet"), classes="sheet-foot")

    def action_scroll(self, lines: int) -> None:
        """Move within a long text."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
