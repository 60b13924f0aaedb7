"""A line to type in that cannot be made to hold what a terminal would act on."""

from __future__ import annotations

from textual import events
from textual.widgets import Input

from engine.text import clean


class CleanInput(Input):
    """An `Input` whose text is cleaned, whether it was typed, pasted or set."""

    DEFAULT_CSS = """
    CleanInput, CleanInput:focus { border: none; height: 1; padding: 0 1; background: $panel; }
    """

    def validate_value(self, value: str) -> str:
        """One line without control characters."""
        return clean(value).replace("\n", " ").replace("\t", " ")

    def _on_paste(self, event: events.Paste) -> None:
        """All lines that were pasted, as one; Textual, whose turn is next, would keep the first only."""
        event.text = " ".join(event.text.splitlines())
