"""A line to type in that cannot be made to hold what a terminal would act on."""

from __future__ import annotations

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
