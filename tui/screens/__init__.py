"""One screen a file. Screens use widgets, modals and the engine's verbs; only `tui.app` imports them."""
