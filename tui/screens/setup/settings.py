"""Every setting of a preset, to edit as text."""

from __future__ import annotations

from collections.abc import Mapping

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from engine import presets
from engine.config import Preset
from engine.errors import FinetuiError
from tui.widgets.clean_input import CleanInput
from tui.widgets.columns import cell, line

HIDDEN = ("data.path", "data.format", "data.columns", "data.subset", "data.split", "data.source")
"""Answered in step two."""


class SettingsModal(ModalScreen[dict[str, str] | None]):
    """A list of settings; Enter edits one, Escape takes what was changed."""

    BINDINGS = [Binding("escape", "leave", "Done", key_display="esc")]

    def __init__(self, preset: Preset, changes: Mapping[str, str]) -> None:
        super().__init__(classes="dialog")
        self._preset = preset
        self._changes = dict(changes)

    def compose(self) -> ComposeResult:
        """The list, the help of the setting under the cursor, the line to edit in."""
        with Vertical(classes="sheet", id="settings-sheet"):
            yield Static(Content("All settings"), classes="sheet-title")
            yield OptionList(id="settings-list", markup=False)
            yield Static(id="settings-help")
            yield CleanInput(id="settings-value")
            yield Static(Content.styled("enter edit    esc done", "$quiet"), classes="sheet-foot")

    def on_mount(self) -> None:
        """The list has the keys; the line waits."""
        self.query_one("#settings-value").display = False
        self._fill()
        self.query_one(OptionList).focus()

    @property
    def _settings(self) -> list[presets.Setting]:
        tuned = presets.override(self._preset, self._changes)
        return [setting for setting in presets.settings(tuned) if setting.name not in HIDDEN]

    @property
    def _current(self) -> presets.Setting:
        return self._settings[self.query_one(OptionList).highlighted or 0]

    def _fill(self) -> None:
        options = self.query_one(OptionList)
        at = options.highlighted or 0
        found = self._settings
        names = max(len(setting.name) for setting in found)
        options.clear_options()
        options.add_options([Option(self._prompt(setting, names)) for setting in found])
        options.highlighted = at

    def _prompt(self, setting: presets.Setting, names: int) -> Content:
        changed = setting.name in self._changes
        value = cell(setting.value, 20, "bold $tuned" if changed else "")
        return line(cell(setting.name, names), value, Content.styled("changed" if changed else "", "$tuned"))

    @on(OptionList.OptionHighlighted)
    def _help(self) -> None:
        setting = self._current
        choices = f"  ({', '.join(setting.choices)})" if setting.choices else ""
        self.query_one("#settings-help", Static).update(Content.styled(setting.help + choices, "$quiet"))

    @on(OptionList.OptionSelected)
    def _edit(self) -> None:
        field = self.query_one("#settings-value", Input)
        field.value = self._current.value
        field.display = True
        field.focus()

    @on(Input.Submitted)
    def _apply(self, event: Input.Submitted) -> None:
        changes = {**self._changes, self._current.name: event.value.strip()}
        try:
            presets.override(self._preset, changes)
        except FinetuiError as error:
            words = Content.styled(f"✗ {error}", "$error")
            self.query_one("#settings-help", Static).update(words)
            return
        self._changes = changes
        self._close_line()
        self._fill()

    def _close_line(self) -> None:
        self.query_one("#settings-value").display = False
        self.query_one(OptionList).focus()

    def action_leave(self) -> None:
        """Leave the line, else the list."""
        if self.query_one("#settings-value").display:
            self._close_line()
        else:
            self.dismiss(self._changes)
