"""The end of the worker's own output, as it grows."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.text import clean


class LogTail(VerticalScroll):
    """`text` in a scrollable part that stays at the end."""

    text: reactive[str] = reactive("")

    def compose(self) -> ComposeResult:
        """One block of plain text."""
        yield Static(id="log-text")

    def on_mount(self) -> None:
        """Say so while there is nothing."""
        self.watch_text(self.text)

    def watch_text(self, text: str) -> None:
        """Show the newest lines."""
        if not self.is_mounted:
            return
        shown = Content(clean(text)) if text else Content.styled("the worker has written nothing yet", "$quiet")
        self.query_one("#log-text", Static).update(shown)
        self.scroll_end(animate=False)
