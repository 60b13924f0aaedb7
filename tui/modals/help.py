"""The keys that work right now, generated from the bindings themselves, so that it cannot be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterable

from textual.app import App, ComposeResult
from textual.binding import ActiveBinding, Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.dom import DOMNode
from textual.screen import ModalScreen, Screen
from textual.widgets import Static


def keys_of(active: Iterable[ActiveBinding]) -> dict[str, list[tuple[str, str]]]:
    """Where a key works → (keys, what they do). A list's own arrow keys need no telling."""
    groups: dict[str, dict[str, list[str]]] = {"here": {}}
    for node, binding, enabled, tooltip in active:
        if not enabled or not binding.description or type(node).__module__.startswith("textual."):
            continue
        keys = groups.setdefault(_place(node), {}).setdefault(tooltip or binding.description, [])
        key = binding.key_display or node.app.get_key_display(binding)
        if key not in keys:
            keys.append(key)
    return {place: [(" ".join(keys), text) for text, keys in rows.items()] for place, rows in groups.items() if rows}


def _place(node: DOMNode) -> str:
    if isinstance(node, App):
        return "everywhere"
    if isinstance(node, Screen):
        return "here"
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__)  # RunList → run list
    return f"in the {words.lower()}"


class HelpModal(ModalScreen[None]):
    """Lists the keys of the screen that it was opened on."""

    BINDINGS = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", "Close", key_display="esc"),
        Binding("down,j", "scroll(1)", "Down", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, active: Iterable[ActiveBinding]) -> None:
        super().__init__(classes="dialog")
        self._groups = keys_of(active)

    def compose(self) -> ComposeResult:
        """A table of keys for each place."""
        with Vertical(classes="sheet"):
            yield Static(Content("Keys"), classes="sheet-title")
            with VerticalScroll(classes="sheet-scroll"):
                yield Static(self._table())
            yield Static(Content.styled("esc close    ctrl+p every command by name", "$quiet"), classes="sheet-foot")

    def _table(self) -> Content:
        width = max((len(key) for rows in self._groups.values() for key, _ in rows), default=0)
        blocks = []
        for place, rows in self._groups.items():
            lines = [Content.styled(place, "$quiet")]
            lines += [Content.assemble((f"  {key:<{width}}", "$primary"), f"   {text}") for key, text in rows]
            blocks.append(Content("\n").join(lines))
        return Content("\n\n").join(blocks)

    def action_scroll(self, lines: int) -> None:
        """Move within a long list."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
