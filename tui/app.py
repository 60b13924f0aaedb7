"""The app: themes, global keys, and the way from screen to screen. Everything else stands in the screens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.reactive import reactive
from textual.screen import ModalScreen, Screen
from textual.widgets import Input

from tui import messages, theme

if TYPE_CHECKING:
    from engine.paths import RunDir

Place = tuple[messages.ScreenName, "RunDir | None"]


class FinetuiApp(App[None]):
    """finetui in a terminal. It never trains: it starts workers, and reads what they write."""

    TITLE = "finetui"
    CSS_PATH = "app.tcss"
    ESCAPE_TO_MINIMIZE = False
    BINDINGS = [
        Binding("question_mark,f1", "help", "Help", tooltip="the keys that work here"),
        Binding("escape", "back", "Back", show=False, tooltip="back to where you came from"),
        Binding("q", "leave", "Quit", show=False, tooltip="back; on the first screen quit (runs keep running)"),
    ]

    draft: reactive[object | None] = reactive(None)
    """What the setup screen held when it was left, so that it opens as it was; the type is that screen's own."""

    fault: Exception | None = None
    """The defect that ended the app."""

    def __init__(self) -> None:
        super().__init__()
        self._places: WeakKeyDictionary[Screen[Any], Place] = WeakKeyDictionary()
        for ours in theme.THEMES:
            self.register_theme(ours)
        self.theme = theme.DARK
        self.conversations: dict[RunDir, object] = {}
        """What was said in each run's chat when it was left; the type is that screen's own."""

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our own colour names, for themes that do not have them."""
        return theme.VARIABLES

    def get_default_screen(self) -> Screen[None]:
        """Home lies under everything."""
        return self._build(("home", None))

    def on_mount(self) -> None:
        """Give the terminal back on SIGTERM, and end when it is gone."""
        if not self.is_headless:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)
            self.set_interval(0.5, _end_without_terminal)

    def _handle_exception(self, error: Exception) -> None:
        # Textual's own prints pages of traceback with local values over what the person was doing.
        if self.is_headless:
            super()._handle_exception(error)
            return
        self.fault = self.fault or error
        self._return_code = 1
        self._close_messages_no_wait()

    def get_key_display(self, binding: Binding) -> str:
        """A key as it is called; where one types, a question mark is only a letter, and help has another key."""
        if binding.action == "help":
            return "F1" if isinstance(self.focused, Input) else "?"
        return super().get_key_display(binding)

    def _terminate(self) -> None:
        self.exit(return_code=128 + signal.SIGTERM)

    def on_open(self, event: messages.Open) -> None:
        """Go to a screen. One that is open already is gone back to, so that the way back stays short."""
        place = (event.screen, event.run)
        if place in map(self._places.get, self.screen_stack):
            while self._places.get(self.screen) != place:
                self.pop_screen()
        elif self._places.get(self.screen) == ("setup", None):
            self.switch_screen(self._build(place))  # what was set up has begun: back leads home
        else:
            self.push_screen(self._build(place))

    def _build(self, place: Place) -> Screen[None]:
        screen = _screen(*place)
        self._places[screen] = place
        return screen

    def on_problem(self, event: messages.Problem) -> None:
        """Show what went wrong and what to do."""
        from tui.modals.error import ErrorModal

        self.push_screen(ErrorModal(event.error))

    def action_help(self) -> None:
        """Show the keys that work where the focus is."""
        from tui.modals.help import HelpModal

        if not isinstance(self.screen, ModalScreen):
            self.push_screen(HelpModal(list(self.screen.active_bindings.values())))

    async def action_back(self) -> None:
        """Leave this screen; home stays."""
        if len(self.screen_stack) > 1:
            self.pop_screen()

    async def action_leave(self) -> None:
        """Leave this screen; home says what keeps running and quits."""
        await (self.action_back() if len(self.screen_stack) > 1 else self.run_action("screen.quit"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The verbs of the screen by name, then those of the app."""
        for node, binding, enabled, tooltip in screen.active_bindings.values():
            if node is screen and enabled and binding.description:
                yield SystemCommand(binding.description, tooltip or binding.description, self._doing(binding))
        yield SystemCommand("Runs", "what there is and what is running", lambda: self._go("home"))
        yield SystemCommand("New run", "choose a model and data", lambda: self._go("setup"))
        for ours in theme.THEMES:
            yield SystemCommand(f"Theme: {ours.name.removeprefix('finetui-')}", "colours", self._colours(ours.name))
        yield SystemCommand("Keys", "the keys that work here", self.action_help)
        yield SystemCommand("Quit", "runs keep running", self.exit)

    def _go(self, name: messages.ScreenName) -> None:
        self.post_message(messages.Open(name))

    def _doing(self, binding: Binding) -> Any:
        return lambda: self.call_later(self.run_action, binding.action, self.screen)

    def _colours(self, name: str) -> Any:
        return lambda: setattr(self, "theme", name)


def _screen(name: messages.ScreenName, run: RunDir | None) -> Screen[None]:
    """A new screen; each module is imported when it is first opened."""
    if name == "home":
        from tui.screens.home import HomeScreen

        return HomeScreen()
    if name == "setup":
        from tui.screens.setup import SetupScreen

        return SetupScreen()
    if run is None:
        raise ValueError(f"the screen {name!r} shows a run, and none was given")
    return _run_screen(name, run)


def _run_screen(name: messages.ScreenName, run: RunDir) -> Screen[None]:
    if name == "export":
        from tui.screens.export import ExportScreen

        return ExportScreen(run)
    if name == "chat":
        from tui.screens.chat import ChatScreen

        return ChatScreen(run)
    from tui.screens.train import TrainScreen

    return TrainScreen(run)


def _end_without_terminal() -> None:
    # Where SIGHUP does not reach us, reading from a closed terminal would spin, and writing would block for ever.
    if not os.isatty(sys.__stdin__.fileno() if sys.__stdin__ else 0):
        os._exit(128 + signal.SIGHUP)


def main() -> int:
    """Open the app; the exit code is that of the process. Needs a terminal on both ends."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        print(
            "finetui needs a terminal to draw on, and this is none.\n"
            "  → Open it in a terminal (over SSH: ssh -t), or use the commands: finetui --help",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the terminal is gone; it may have been ignored by our parent
    app = FinetuiApp()
    app.run()
    return _tell(app.fault) if app.fault is not None else app.return_code or 0


def _tell(fault: Exception) -> int:
    from textual.worker import WorkerFailed

    from engine import crash
    from engine.commands.output import Output

    cause = fault.error if isinstance(fault, WorkerFailed) else fault
    error = crash.keep(cause, sys.argv[1:])
    Output().error(error)
    return error.code
