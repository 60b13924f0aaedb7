"""Home: what do I have, and what is running?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from tui import messages
from tui.feeds import GpuFeed, RunsFeed
from tui.widgets.title_bar import TitleBar

if TYPE_CHECKING:
    from engine.runs import RunInfo
    from tui.widgets.run_table import RunTable

EMPTY = Content.assemble(
    ("No runs yet\n\n", "bold"),
    ("⏎ ", "$primary"),
    "try the demo   ",
    ("a small model learns a real task, no GPU needed\n", "$quiet"),
    ("n ", "$primary"),
    "new run        ",
    ("your model, your data, this machine", "$quiet"),
)


class HomeScreen(Screen[None]):
    """The runs, the GPU, and where to go from here."""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]
    BINDINGS = [
        Binding("enter", "open", "Open", key_display="⏎", tooltip="the run's training; without runs, the demo"),
        Binding("n", "new", "New", tooltip="a new run: model, data, plan"),
        Binding("e", "export", "Export", tooltip="merge, GGUF, certificate, Ollama"),
        Binding("t", "chat", "Chat", tooltip="talk to the tuned model"),
        Binding("r", "resume", "Resume", tooltip="continue a stopped, failed or lost run from its checkpoint"),
        Binding("d", "delete", "Delete", tooltip="remove the run's folder (asks first)"),
        Binding("slash", "filter", "Filter", key_display="/", show=False, tooltip="by name, model or status"),
        Binding("escape", "unfilter", "Show all", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.runs: tuple[RunInfo, ...] | None = None
        """None until the first reading."""
        self._feeds = (RunsFeed(self), GpuFeed(self))

    def compose(self) -> ComposeResult:
        """Only what is cheap; the list follows after the first paint."""
        yield TitleBar(Content.styled("finetui", "bold $tuned"))
        yield Vertical(Static(EMPTY, id="empty"), id="home")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The first feed imports the engine, so it begins after the first paint."""
        self.query_one("#empty").display = False
        self.call_after_refresh(self._feeds[0].start)

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        for feed in self._feeds:
            feed.stop()

    async def on_runs_changed(self, event: messages.RunsChanged) -> None:
        """Show the list, or how to begin; only then ask for the GPU."""
        if self.runs is None:
            self.set_timer(0.1, self._feeds[1].start)
        self.runs = tuple(event.runs)
        if not self.runs and not self.query("#runs"):  # nothing to list: nothing of the list is needed
            self.query("#empty").set(display=event.complete)
            return
        table = await self._table()
        self.query("#empty").set(display=not self.runs and event.complete)
        self.query("#runs, #preview").set(display=bool(self.runs))
        table.runs = self.runs
        if not self.runs:
            self.set_focus(None)
        elif self.focused is None:
            table.query("#lines").focus()
        self.refresh_bindings()

    async def _table(self) -> RunTable:
        from tui.widgets.clean_input import CleanInput
        from tui.widgets.run_preview import RunPreview
        from tui.widgets.run_table import RunTable

        found = self.query(RunTable)
        if found:
            return found.first()
        place = self.query_one("#home")
        bar = CleanInput(placeholder="filter: name, model or status", id="filter")
        bar.display = False
        table = RunTable(id="runs")
        await place.mount(bar, table, RunPreview(id="preview"))
        return table

    def on_gpu_changed(self, event: messages.GpuChanged) -> None:
        """The first line says what there is to compute on."""
        from tui.widgets.gpu_panel import gpu_line

        self.query_one(TitleBar).right = gpu_line(event.status)

    def on_run_table_highlighted(self, event: RunTable.Highlighted) -> None:
        """Show the run under the cursor."""
        from tui.widgets.run_preview import RunPreview

        for preview in self.query(RunPreview):
            preview.info = event.info
            preview.display = event.info is not None
        self.refresh_bindings()

    @property
    def selected(self) -> RunInfo | None:
        """The run under the cursor."""
        if not self.runs:
            return None
        from tui.widgets.run_table import RunTable

        return self.query_one(RunTable).selected

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002
        """A key that can do nothing for the run under the cursor is not offered."""
        if action not in ("export", "chat", "delete", "resume"):
            return True
        from tui.verbs import allowed

        info = self.selected
        return info is not None and allowed(action, info.state, info.status, info.plan is not None)

    def on_run_table_opened(self, event: RunTable.Opened) -> None:
        """Enter on a line."""
        self.post_message(messages.Open("train", event.info.run))

    def action_open(self) -> None:
        """Enter where there is no line: begin with what setup has preselected, the demo."""
        info = self.selected
        self.post_message(messages.Open("train", info.run) if info else messages.Open("setup"))

    def action_new(self) -> None:
        """Set up a run."""
        self.post_message(messages.Open("setup"))

    def action_export(self) -> None:
        """Go to the run's export."""
        if info := self.selected:
            self.post_message(messages.Open("export", info.run))

    def action_chat(self) -> None:
        """Go to the run's chat."""
        if info := self.selected:
            self.post_message(messages.Open("chat", info.run))

    def action_resume(self) -> None:
        """Start the worker again and follow it."""
        from tui.verbs import resume

        if info := self.selected:
            resume(self, info.run, info.state, then_open=True)

    def action_delete(self) -> None:
        """Ask, then remove."""
        from tui.verbs import delete

        if info := self.selected:
            delete(self, info)

    def action_filter(self) -> None:
        """Type what the runs must have in common."""
        for bar in self.query("#filter"):
            bar.display = True
            bar.focus()

    def action_unfilter(self) -> None:
        """Show every run again."""
        from tui.widgets.clean_input import CleanInput
        from tui.widgets.run_table import RunList

        for bar in self.query(CleanInput):
            bar.value = ""
            bar.display = False
        for lines in self.query(RunList):
            lines.focus()

    def on_input_changed(self) -> None:
        """Filter as it is typed."""
        from tui.widgets.clean_input import CleanInput
        from tui.widgets.run_table import RunTable

        self.query_one(RunTable).filter = self.query_one(CleanInput).value

    def on_input_submitted(self) -> None:
        """Back to the lines that match."""
        from tui.widgets.run_table import RunList

        self.query_one(RunList).focus()

    def action_quit(self) -> None:
        """Quit, saying what keeps running."""
        from tui.verbs import farewell

        self.app.exit(message=farewell(self.runs or ()))
