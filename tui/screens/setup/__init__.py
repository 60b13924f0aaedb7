"""A new run in three steps: model, data, plan."""

from tui.screens.setup.screen import SetupScreen

__all__ = ["SetupScreen"]
