"""Step three: what it will take, and the settings that most people change; every change is planned at once."""

from __future__ import annotations

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

from engine import presets, vram
from engine.errors import FinetuiError
from engine.gpu import GpuReading
from engine.plan import Plan, time_line
from engine.text import clean
from engine.units import format_count
from tui.modals.error import describe_error
from tui.screens.setup.choices import change, form_rows
from tui.screens.setup.draft import Draft
from tui.widgets.columns import Section
from tui.widgets.plan_form import PlanForm
from tui.widgets.vram_bar import BudgetBar

MUCH_ADVICE = 3


class PlanStep(VerticalScroll, can_focus=False):
    """Memory, disk, steps, warnings, and the form."""

    BINDINGS = [
        Binding("enter", "start", "Start"),
        Binding("a", "all", "All", tooltip="every setting, to edit as text"),
        Binding("y", "command", "Command", tooltip="the same on the command line, to the clipboard"),
        Binding("r", "reset", "Reset", show=False, tooltip="the preset's own settings"),
    ]

    draft: reactive[Draft] = reactive(Draft(), init=False)
    gpu: reactive[GpuReading | None] = reactive(None, init=False)
    starting: reactive[bool] = reactive(False, init=False)

    class Changed(Message):
        """Settings were changed; the draft is the whole new one."""

        def __init__(self, draft: Draft) -> None:
            super().__init__()
            self.draft = draft

    class Started(Message):
        """The person wants this plan to run."""

        def __init__(self, plan: Plan) -> None:
            super().__init__()
            self.plan = plan

    class AllWanted(Message):
        """The person wants to see every setting."""

    plan: Plan | None = None

    def compose(self) -> ComposeResult:
        """Memory and disk, figures, form, what there is to say, the command."""
        yield BudgetBar(id="vram")
        yield BudgetBar(compact=True, id="disk")
        yield Static(id="plan-figures")
        yield Section("settings", id="plan-rule")
        yield PlanForm(id="form")
        yield Static(id="plan-notes")
        yield Static(id="plan-command")

    def focus_step(self) -> None:
        """The form takes the keys."""
        self.query_one(PlanForm).focus()

    def watch_draft(self) -> None:
        """Plan anew."""
        self._replan()

    def watch_gpu(self) -> None:
        """Plan anew."""
        self._replan()

    def watch_starting(self) -> None:
        """Say that it starts."""
        self._notes()

    def _replan(self) -> None:
        if self.draft.report is None or self.draft.report.refused or self.draft.preset is None:
            return
        try:
            self.plan = self.draft.plan(self.gpu)
        except FinetuiError as error:
            self.plan = None
            self._show_notes([describe_error(error.title, error.detail, error.hints)])
            return
        self._show(self.plan)

    def _show(self, plan: Plan) -> None:
        memory = self.query_one("#vram", BudgetBar)
        memory.label, memory.budget = ("VRAM" if plan.gpu else "RAM"), plan.vram
        disk = self.query_one("#disk", BudgetBar)
        disk.label, disk.budget = "disk", plan.disk
        self.query_one("#plan-figures", Static).update(_figures(plan))
        self.query_one(PlanForm).rows = form_rows(plan, self.draft.changes)
        note = f"{len(self.draft.changes)} changed · r resets" if self.draft.changes else "as in the preset"
        self.query_one("#plan-rule", Section).note = Content(note)
        command = Content.assemble(("$ ", "$quiet"), (clean(self.draft.command), "$quiet"))
        self.query_one("#plan-command", Static).update(command)
        self._notes()

    def _notes(self) -> None:
        if self.plan is not None:
            self._show_notes(_notes(self.plan, self.gpu, self.starting))

    def _show_notes(self, lines: list[Content]) -> None:
        self.query_one("#plan-notes", Static).update(Content("\n").join(lines))

    @on(PlanForm.Changed)
    def _change(self, event: PlanForm.Changed) -> None:
        event.stop()
        if self.draft.tuned is None or self.starting:
            return
        self.apply({**self.draft.changes, **change(self.draft.tuned, event.name, event.direction)})

    def apply(self, changes: dict[str, str]) -> None:
        """Take these overrides instead of those so far, without those that say what the preset says."""
        preset = self.draft.preset
        if preset is None:
            return
        own = {setting.name: setting.value for setting in presets.settings(preset)}
        tuned = {setting.name: setting.value for setting in presets.settings(presets.override(preset, changes))}
        kept = {name: text for name, text in changes.items() if tuned.get(name) != own.get(name)}
        draft = self.draft
        self.draft = Draft(draft.preset, draft.data, draft.report, kept)
        self.post_message(self.Changed(self.draft))

    def action_reset(self) -> None:
        """Back to the preset's settings."""
        self.apply({})

    def action_start(self) -> None:
        """Start, or say why not."""
        if self.plan is None or self.starting:
            return
        self.post_message(self.Started(self.plan))

    def action_all(self) -> None:
        """Every setting."""
        self.post_message(self.AllWanted())

    def action_command(self) -> None:
        """Copy the command line."""
        self.app.copy_to_clipboard(self.draft.command)
        self.app.notify(clean(self.draft.command), title="Copied", markup=False)


def _figures(plan: Plan) -> Content:
    summary, train = plan.summary, plan.train
    steps = f"{plan.steps:,} steps × {plan.effective_batch} rows"
    tokens = format_count(round(summary.approximate_tokens * plan.passes))
    rest = (
        f" · {plan.passes:.3g} epochs of {summary.rows:,} rows · about {tokens} tokens"
        f" · eval every {train.eval_steps} steps on {summary.eval_rows:,} rows"
    )
    taken = Content.assemble(("time  ", "$quiet"), (time_line(plan), "bold"))
    return Content.assemble(taken, "\n", ("steps ", "$quiet"), (steps, "bold"), (rest, "$quiet"))


def _notes(plan: Plan, gpu: GpuReading | None, starting: bool) -> list[Content]:
    lines = [Content.assemble(("! ", "$warning"), warning) for warning in plan.warnings]
    if not plan.vram.fits:
        where = "GPU" if plan.gpu else "machine"
        lines.append(Content.styled(f"✗ It does not fit into the {where}'s memory. What helps:", "$error"))
        helpful = vram.advise(plan.preset, gpu)[:MUCH_ADVICE]
        lines += [Content.assemble(("  → ", "$primary"), str(advice)) for advice in helpful]
    if not plan.disk.fits:
        lines.append(Content.styled("✗ The disk has too little room: free some, or set FINETUI_HOME.", "$error"))
    if starting:
        lines.append(Content.styled("● starting the worker …", "$primary"))
    elif plan.vram.fits and plan.disk.fits:
        lines.append(Content.assemble(("✓ ", "$success"), "enter starts it; it keeps running when you leave"))
    return lines
