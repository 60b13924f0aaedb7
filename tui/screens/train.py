"""Training: is it learning, is it healthy, when is it done, may I leave?"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container, Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static

from engine import launch
from engine.errors import UsageError
from engine.paths import RunDir
from engine.plan import Plan
from engine.runs import load_plan
from engine.state import RunState, Status
from engine.text import clean_line
from engine.units import format_count, format_duration
from tui import messages, verbs
from tui.feeds import GpuFeed, RunFeed
from tui.modals.confirm import ConfirmModal
from tui.run_screen import RunScreen
from tui.widgets.columns import Section
from tui.widgets.gpu_panel import GpuPanel
from tui.widgets.log_tail import LogTail
from tui.widgets.loss_chart import LossChart
from tui.widgets.outcome import Outcome, outcome
from tui.widgets.run_text import (
    age,
    findings_text,
    left_s,
    mark_of,
    phase_text,
    plan_line,
    samples_text,
    stage_of,
    stepping,
)
from tui.widgets.title_bar import TitleBar
from tui.widgets.trend import Trend

LOG_LINES = 200

BELOW = "#log, #gpu-all"
"""What a key brings in the place of findings and answers."""


class TrainScreen(RunScreen):
    """One run, live or as it ended. Leaving it changes nothing about the run."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall")]
    BINDINGS = [
        Binding("s", "stop", "Stop", tooltip="stop after this step; what was learned is saved"),
        Binding("x", "kill", "Stop now", tooltip="end the worker at once (asks first)"),
        Binding("r", "resume", "Resume", tooltip="continue from the newest checkpoint"),
        Binding("e", "export", "Export", tooltip="merge, GGUF, certificate, Ollama"),
        Binding("t", "chat", "Chat", tooltip="talk to the tuned model"),
        Binding("l", "log", "Log", tooltip="the worker's own output"),
        Binding("g", "gpu", "GPU", tooltip="all of the GPU, and who holds its memory"),
        Binding("q,escape", "app.back", "Leave", key_display="q", tooltip="back; a run keeps running"),
    ]

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self.run = run
        self.state: RunState = RunState()
        self.status: Status | None = None
        self.plan, self.problem = _plan_of(run)
        self._stop_asked = False
        self._feeds = (RunFeed(self, run), GpuFeed(self, run))

    def compose(self) -> ComposeResult:
        """Chart and machine, then what was found and what the model answers."""
        yield TitleBar()
        yield Outcome(id="outcome")
        yield Static(id="phase")
        with Container(id="body"):
            yield LossChart(id="loss")
            with Container(id="side"):
                with Vertical(id="machine"):
                    yield GpuPanel(id="gpu")
                    yield Static(id="kept")
                with Vertical(id="trends"):
                    yield Trend("learning rate", lambda step: step.lr, "{:.2g}".format, id="lr")
                    yield Trend("gradient norm", lambda step: step.grad_norm, "{:.3f}".format, id="norm")
                    yield Trend("tokens/s", lambda step: step.tokens_per_s, "{:,.0f}".format, id="speed")
        with Horizontal(id="notes"):
            with Vertical():
                yield Section("findings")
                yield VerticalScroll(Static(id="findings"))
            with Vertical():
                yield Section("answers", id="answers-title")
                yield VerticalScroll(Static(id="samples"))
        yield LogTail(id="log")
        yield GpuPanel(id="gpu-all")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to follow."""
        self.query(BELOW).set(display=False)
        for panel in self.query(GpuPanel):
            if self.plan is not None and self.plan.device == "cuda":
                panel.planned_bytes = self.plan.vram.needed_bytes or None
                panel.uuid = self.plan.gpu.uuid if self.plan.gpu else ""
        self._show()
        self.set_interval(1.0, self._tick)
        for feed in self._feeds:
            feed.start()

    def on_unmount(self) -> None:
        """Nobody looks any more."""
        for feed in self._feeds:
            feed.stop()

    def on_run_changed(self, event: messages.RunChanged) -> None:
        """New events, or the worker came or went."""
        if event.status is not Status.RUNNING:
            self._stop_asked = False
        self.state, self.status = event.state, event.status
        self._show()
        self.refresh_bindings()

    def on_gpu_changed(self, event: messages.GpuChanged) -> None:
        """A new reading."""
        for panel in self.query(GpuPanel):
            panel.usage, panel.ours, panel.status = event.usage, event.ours, event.status

    def _show(self) -> None:
        state, status = self.state, self.status
        chart = self.query_one(LossChart)
        chart.evals, chart.steps = state.evals, state.steps
        chart.empty = "" if self.problem else "the first step comes after loading"
        for trend in self.query(Trend):
            trend.steps = state.steps
        for panel in self.query(GpuPanel):
            panel.past = state.gpus
        self.query_one("#findings", Static).update(findings_text(state))
        self.query_one("#samples", Static).update(samples_text(state))
        self.query_one("#answers-title", Section).title = (
            f"at step {state.samples[-1].step:,} the model answers" if state.samples else "answers"
        )
        self._show_outcome()
        if status is not None:
            phase = phase_text(state, status)
            self.query_one("#phase", Static).update(phase)
            self.query_one("#phase").display = bool(phase) and not stepping(self.state)
        self._tick()

    def _show_outcome(self) -> None:
        panel = self.query_one(Outcome)
        panel.state, panel.status, panel.problem = self.state, self.status, self.problem
        panel.tail = launch.log_tail(self.run, 4) if self.status is Status.LOST else ""
        panel.display = self.status is not None and bool(outcome(self.state, self.status, problem=self.problem))

    def _tick(self) -> None:
        """What changes with time alone: the title's time left, the age of the checkpoint, the log."""
        bar = self.query_one(TitleBar)
        bar.left, bar.right = self._title(), self._where()
        for panel in self.query(GpuPanel):
            panel.device = clean_line(stage.device) if (stage := stage_of(self.state)) else ""
        self.query_one("#kept", Static).update(self._kept())
        log = self.query_one(LogTail)
        if log.display:
            log.text = launch.log_tail(self.run, LOG_LINES)

    def _title(self) -> Content:
        name = clean_line(self.plan.slug if self.plan else self.run.name)
        mark = mark_of(self.state, self.status).content() if self.status is not None else Content("")
        return Content.assemble((name, "bold $tuned"), "  ", mark, (f"  {plan_line(self.plan)}", "$quiet"))

    def _where(self) -> Content:
        last = self.state.last_step
        if self._stop_asked:
            return Content.styled("‖ stopping after this step…", "$warning")
        if last is None:
            return Content.styled(f"{self.plan.steps:,} steps planned" if self.plan else "", "$quiet")
        parts = [f"step {last.step}/{last.steps}", f"epoch {last.epoch:.2f}"]
        left = left_s(self.state) if self.status is Status.RUNNING and stepping(self.state) else None
        if left is not None:
            parts.append(f"{format_duration(left)} left")
        return Content(" · ".join(parts))

    def _kept(self) -> Content:
        lines = []
        if self.state.checkpoints:
            kept = self.state.checkpoints[-1]
            lines.append(Content.assemble(("✓ ", "$success"), f"checkpoint {kept.step:,}", f"   {age(kept.t)} ago"))
        else:
            lines.append(Content.styled("no checkpoint yet", "$quiet"))
        last = self.state.last_step
        if last is not None and last.trained_tokens is not None:
            lines.append(Content(f"{format_count(last.trained_tokens)} tokens trained"))
        return Content("\n").join(lines)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what the run's status allows."""
        offered = super().check_action(action, parameters)
        return offered and verbs.allowed(action, self.state, self.status, self.plan is not None)

    def action_stop(self) -> None:
        """Ask the worker to stop at its next safe point."""
        self._stop_asked = launch.request_stop(self.run)
        self._tick()

    def action_kill(self) -> None:
        """Ask, then end the worker."""
        kept = self.state.checkpoints[-1].step if self.state.checkpoints else None
        saved = f"What was learned since step {kept:,} is lost." if kept else "Nothing was saved yet: all is lost."
        modal = ConfirmModal(f"Stop {clean_line(self.run.name)} now?", saved, "y Stop now", "n Keep running")

        def answered(yes: bool | None) -> None:
            if yes:
                verbs.attempt(self, lambda: launch.kill(self.run))

        self.app.push_screen(modal, answered)

    def action_resume(self) -> None:
        """Start the worker again."""
        verbs.resume(self, self.run, self.state)

    def action_export(self) -> None:
        """Go to the export."""
        self.post_message(messages.Open("export", self.run))

    def action_chat(self) -> None:
        """Go to the chat."""
        self.post_message(messages.Open("chat", self.run))

    def action_log(self) -> None:
        """The log instead of findings and answers, and back."""
        self._swap("#log")
        self._tick()

    def action_gpu(self) -> None:
        """The whole GPU instead of findings and answers, and back."""
        self._swap("#gpu-all")

    def _swap(self, place: str) -> None:
        chosen = self.query_one(place)
        show = not chosen.display
        self.query(BELOW).set(display=False)
        chosen.display = show
        self.query_one("#notes").display = not show
        if show and chosen.focusable:
            chosen.focus()


def _plan_of(run: RunDir) -> tuple[Plan | None, str]:
    """The plan, or why it cannot be read: the events can be shown all the same."""
    try:
        return load_plan(run), ""
    except UsageError as error:
        return None, clean_line(" ".join((str(error), *error.hints)), 400)
