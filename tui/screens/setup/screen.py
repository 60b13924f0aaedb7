"""Setup: one screen in three steps. Enter goes on, Escape goes back; what is chosen stands in the title."""

from __future__ import annotations

from dataclasses import replace

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.content import Content
from textual.reactive import reactive
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Footer

from engine import launch, presets, runs
from engine.config import Preset
from engine.errors import FinetuiError
from engine.gpu import GpuReading
from engine.plan import Plan, require_fit
from engine.text import clean_line
from engine.units import format_bytes
from tui.feeds import GpuFeed
from tui.messages import GpuChanged, Open, Problem
from tui.modals.ask import Answer, AskModal
from tui.screens.setup.data_step import DataStep
from tui.screens.setup.draft import Draft, differs
from tui.screens.setup.fits import preset_row
from tui.screens.setup.model_step import ModelStep
from tui.screens.setup.plan_step import PlanStep
from tui.screens.setup.settings import SettingsModal
from tui.widgets.preset_table import PresetRow
from tui.widgets.title_bar import TitleBar

STEPS = ("model", "data", "plan")
FILLED, OPEN = "❶❷❸", "①②③"
DEMO = "demo"


class SetupScreen(Screen[None]):
    """Model, data, plan, start."""

    CSS_PATH = "setup.tcss"
    AUTO_FOCUS = None
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (108, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]
    BINDINGS = [Binding("escape", "previous", "Back", key_display="esc", tooltip="the step before; then home")]

    step: reactive[str] = reactive("model", init=False)
    gpu: reactive[GpuReading | None] = reactive(None, init=False)

    def __init__(self) -> None:
        super().__init__()
        self.draft = Draft()
        self._looked = False
        self._own: list[Preset] = []

    def compose(self) -> ComposeResult:
        """The title, the three steps, the keys."""
        yield TitleBar()
        with ContentSwitcher(initial="model"):
            yield ModelStep(id="model")
            yield DataStep(id="data")
            yield PlanStep(id="plan")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Take up what was set up before; look at the GPU and the presets."""
        kept = getattr(self.app, "draft", None)
        if isinstance(kept, Draft):
            self.draft = kept
        self._feed = GpuFeed(self)
        self._feed.start()
        self._title()
        self.query_one(ModelStep).focus_step()

    def on_unmount(self) -> None:
        """Look no more."""
        self._feed.stop()

    # ── the machine and the presets ──────────────────────────────────────────────────────────────────────

    @on(GpuChanged)
    def _gpu_read(self, event: GpuChanged) -> None:
        found = event.status.gpus[0] if event.status.gpus else None
        if self._looked and not differs(self.gpu, found):
            return
        first, self._looked = not self._looked, True
        self.gpu = found
        self.query_one(PlanStep).gpu = self.query_one(DataStep).gpu = found
        self._title()
        self.load_presets(first)

    @work(thread=True, exclusive=True, group="presets")
    def load_presets(self, first: bool) -> None:
        """Read every preset and see whether it fits, in a thread."""
        found, problems = presets.load_all()
        rows = [preset_row(preset, self.gpu) for preset in [*found, *self._own]]
        wanted = self.draft.preset.name if self.draft.preset else _preselected(rows)
        self.app.call_from_thread(self._show_presets, rows, wanted if first else None)
        if first:
            for problem in problems:
                self.post_message(Problem(problem))

    def _show_presets(self, rows: list[PresetRow], wanted: str | None) -> None:
        step = self.query_one(ModelStep)
        step.rows = rows
        if wanted is not None:
            step.choose(wanted)

    # ── from step to step ────────────────────────────────────────────────────────────────────────────────

    def watch_step(self, before: str, now: str) -> None:
        """Show the step; data are read only while their step is shown."""
        self.query_one(ContentSwitcher).current = now
        if before == "data":
            self.query_one(DataStep).leave()
        if now == "data":
            self.query_one(DataStep).enter(self.draft)
        self._step(now).focus_step()
        self._title()

    def _step(self, name: str) -> ModelStep | DataStep | PlanStep:
        steps = (self.query_one(ModelStep), self.query_one(DataStep), self.query_one(PlanStep))
        return steps[STEPS.index(name)]

    def action_previous(self) -> None:
        """Leave what is open inside the step, else the step."""
        if self.step == "model" and self.query_one(ModelStep).leave_filter():
            return
        if self.step == "data" and self.query_one(DataStep).leave_inner():
            return
        if self.step == "model":
            self.app.post_message(Open("home"))
        else:
            self.step = STEPS[STEPS.index(self.step) - 1]

    def _keep(self, draft: Draft) -> None:
        self.draft = draft
        if hasattr(self.app, "draft"):
            self.app.draft = draft
        self._title()

    @on(ModelStep.Chosen)
    def _model_chosen(self, event: ModelStep.Chosen) -> None:
        if self.draft.preset != event.preset:
            data = None if self._has_bundled_data() else self.draft.data
            self._keep(Draft(event.preset, data))
        self.step = "data"

    def _has_bundled_data(self) -> bool:
        draft = self.draft
        return draft.is_bundled(draft.data)

    @on(DataStep.Accepted)
    def _data_accepted(self, event: DataStep.Accepted) -> None:
        self._keep(replace(self.draft, data=event.data, report=event.report))
        self.query_one(PlanStep).draft = self.draft
        self.step = "plan"

    @on(DataStep.Changed)
    def _limit_moved(self, event: DataStep.Changed) -> None:
        self._keep(event.draft)

    @on(PlanStep.Changed)
    def _settings_changed(self, event: PlanStep.Changed) -> None:
        self._keep(event.draft)
        data = event.draft.data
        if data is not None and event.draft.settled(data) != data:
            self._keep(replace(event.draft, data=event.draft.settled(data), report=None))
            self.step = "data"  # other rows are held back, mixed in or left out: what was found of them holds no more

    # ── what is asked beside the way ─────────────────────────────────────────────────────────────────────

    @on(ModelStep.OtherWanted)
    def _ask_model(self) -> None:
        detail = "The folder of a Hugging Face model, or a preset's TOML file."
        self.app.push_screen(AskModal("Which model?", detail), self._named)

    def _named(self, answer: Answer | None) -> None:
        if answer is None:
            return
        try:
            preset = presets.find_preset(answer.text)
        except FinetuiError as error:
            self.post_message(Problem(error))
            return
        self._own = [*(own for own in self._own if own.name != preset.name), preset]
        self.load_presets(False)
        self.post_message(ModelStep.Chosen(preset))

    @on(PlanStep.AllWanted)
    def _all_settings(self) -> None:
        if self.draft.preset is not None:
            self.app.push_screen(SettingsModal(self.draft.preset, self.draft.changes), self._edited)

    def _edited(self, changes: dict[str, str] | None) -> None:
        if changes is not None:
            self.query_one(PlanStep).apply(changes)

    # ── the start ────────────────────────────────────────────────────────────────────────────────────────

    @on(PlanStep.Started)
    def _start(self, event: PlanStep.Started) -> None:
        try:
            require_fit(event.plan)
        except FinetuiError as error:
            self.post_message(Problem(error))
            return
        self.query_one(PlanStep).starting = True
        self.start_run(event.plan)

    @work(thread=True, exclusive=True, group="start")
    def start_run(self, plan: Plan) -> None:
        """Make the run's folder and start its worker; up to a second, so in a thread."""
        try:
            run = runs.create(plan)
            launch.start(run, ["train"])
        except FinetuiError as error:
            self.app.call_from_thread(self._not_started, error)
            return
        self.app.call_from_thread(self._keep, Draft())
        self.post_message(Open("train", run))

    def _not_started(self, error: FinetuiError) -> None:
        self.query_one(PlanStep).starting = False
        self.post_message(Problem(error))

    # ── the title ────────────────────────────────────────────────────────────────────────────────────────

    def _title(self) -> None:
        at = STEPS.index(self.step)
        steps = [
            Content.styled(f"{FILLED[index]} {name}", "bold $primary")
            if index == at
            else Content.styled(f"{OPEN[index]} {name}", "$quiet")
            for index, name in enumerate(STEPS)
        ]
        title = self.query_one(TitleBar)
        title.left = Content.assemble(("New run", "bold"), "   ", Content("  ").join(steps))
        title.right = Content(self._chosen() or self._machine())

    def _chosen(self) -> str:
        draft, words = self.draft, []
        if draft.preset is not None and self.step != "model":
            words.append(draft.preset.name)
        if draft.data is not None and draft.report is not None and self.step == "plan":
            words.append(f"{clean_line(draft.data.path.rpartition('/')[2])} {draft.report.rows:,} rows")
        return " · ".join(words)

    def _machine(self) -> str:
        if not self._looked:
            return ""
        if self.gpu is None:
            return "no GPU · small models train on the CPU"
        return f"{self.gpu.name or 'GPU'} · {format_bytes(self.gpu.free_bytes)} free"


def _preselected(rows: list[PresetRow]) -> str:
    """The demo while there is no run yet; then the first model that fits well."""
    if not runs.list_runs() or len(rows) < 2:
        return DEMO
    return next((row.preset.name for row in rows if row.level == "ok" and row.preset.name != DEMO), DEMO)
