"""Colours, and the marks that go with them: no state is told by colour alone."""

from __future__ import annotations

from typing import NamedTuple

from textual.content import Content
from textual.theme import Theme

DARK, LIGHT = "finetui-dark", "finetui-light"

TUNED, BASE = "$tuned", "$base"
"""Styles of what was trained, and of what it was trained from."""

_DARK_EXTRA = {"tuned": "#f0a868", "base": "#8aa4f0", "quiet": "#7d8794", "rule": "#2f3742"}
_LIGHT_EXTRA = {"tuned": "#a8570a", "base": "#3556b8", "quiet": "#66707c", "rule": "#cdd3da"}

VARIABLES = _DARK_EXTRA
"""What our own style sheets need of a theme that is not ours."""

THEMES = (
    Theme(
        name=DARK,
        primary="#5ec4d4",
        secondary="#8aa4f0",
        accent="#5ec4d4",
        foreground="#d7dde4",
        background="#12161b",
        surface="#12161b",
        panel="#1a2027",
        success="#7fc98f",
        warning="#e3c15a",
        error="#f07872",
        dark=True,
        variables={
            **_DARK_EXTRA,
            "footer-background": "#12161b",
            "footer-key-foreground": "#5ec4d4",
            "footer-description-foreground": "#9aa4b0",
            "block-cursor-background": "#1f3540",
            "block-cursor-foreground": "#f2f6f9",
            "block-cursor-text-style": "bold",
            "block-cursor-blurred-background": "#1a242c",
        },
    ),
    Theme(
        name=LIGHT,
        primary="#0b6f83",
        secondary="#3556b8",
        accent="#0b6f83",
        foreground="#20262d",
        background="#fbfbf9",
        surface="#fbfbf9",
        panel="#f0f1ee",
        success="#21753a",
        warning="#8a6400",
        error="#b3261e",
        dark=False,
        variables={
            **_LIGHT_EXTRA,
            "footer-background": "#fbfbf9",
            "footer-key-foreground": "#0b6f83",
            "footer-description-foreground": "#4d5661",
            "block-cursor-background": "#cfe6ea",
            "block-cursor-foreground": "#10161b",
            "block-cursor-text-style": "bold",
            "block-cursor-blurred-background": "#e2eef0",
        },
    ),
)


class Mark(NamedTuple):
    """A symbol, a word and a style: one way to say a state."""

    symbol: str
    word: str
    style: str

    def content(self) -> Content:
        """Symbol and word, coloured."""
        return Content.styled(f"{self.symbol} {self.word}", self.style)


STATUS = {
    "queued": Mark("○", "queued", "$quiet"),
    "running": Mark("●", "running", "$primary"),
    "finished": Mark("✓", "finished", "$success"),
    "failed": Mark("✗", "failed", "$error"),
    "stopped": Mark("‖", "stopped", "$warning"),
    "lost": Mark("✗", "lost", "$error"),
}
"""A run's or a stage's status, by the value of `engine.state.Status`."""

LEVEL = {
    "ok": Mark("✓", "ok", "$success"),
    "warning": Mark("!", "warning", "$warning"),
    "error": Mark("✗", "error", "$error"),
}
"""How much a finding matters, by `engine.events.Level`."""
