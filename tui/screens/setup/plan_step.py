"""Step three: what it will take, and the settings that most people change; every change is planned at once."""

from __future__ import annotations

from dataclasses import replace

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

from engine.errors import FinetuiError
from engine.gpu import GpuReading
from engine.plan import Plan, time_line
from engine.planner import MICRO
from engine.text import clean
from engine.units import format_bytes, format_count
from engine.vram import Advice, advise
from tui.modals.error import describe_error
from tui.screens.setup.choices import CHOICES, change, find
from tui.screens.setup.draft import DIVISION, Draft
from tui.screens.setup.ladder import by_hand, form_rows
from tui.screens.setup.limit import at_limit
from tui.screens.setup.remedies import changes as all_changes
from tui.screens.setup.remedies import remedy
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
        Binding("f", "fit", "Make it fit", tooltip="the cheapest change with which it fits"),
        Binding("R", "reset", "Reset all", show=False, tooltip="every setting as it would be chosen"),
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
    remedy: tuple[Advice, ...] = ()
    """The cheapest changes with which the plan fits, if it does not."""

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
        draft = self.draft
        if draft.report is None or draft.report.refused or draft.tuned is None:
            return
        # What was found of the rows was found with another limit; the histograms tell what this one costs.
        draft = replace(draft, report=at_limit(draft.report, draft.tuned.train.max_length))
        try:
            self.plan = draft.plan(self.gpu)
        except FinetuiError as error:
            self.plan = None
            self._show_notes([describe_error(error.title, error.detail, error.hints)])
            return
        self._show(self.plan)

    def _show(self, plan: Plan) -> None:
        offered, self.remedy = bool(self.remedy), remedy(plan, self.gpu)
        memory = self.query_one("#vram", BudgetBar)
        memory.label, memory.budget = ("VRAM" if plan.gpu else "RAM"), plan.vram
        disk = self.query_one("#disk", BudgetBar)
        disk.label, disk.budget = "disk", plan.disk
        self.query_one("#plan-figures", Static).update(_figures(plan))
        self.query_one(PlanForm).rows = form_rows(self.draft, plan, self.gpu)
        command = Content.assemble(("$ ", "$quiet"), (clean(self.command), "$quiet"))
        self.query_one("#plan-command", Static).update(command)
        self._notes()
        if offered != bool(self.remedy):
            self.refresh_bindings()  # it draws the footer anew: not at every key

    @property
    def command(self) -> str:
        """This plan on the command line."""
        return (self.draft if self.plan is None else self.draft.decided(self.plan)).command

    def _notes(self) -> None:
        if self.plan is not None:
            self.query_one("#plan-rule", Section).note = _verdict(self.draft, self.plan, self.remedy, self.starting)
            self._show_notes(_notes(self.plan, self.gpu, self.remedy))

    def _show_notes(self, lines: list[Content]) -> None:
        self.query_one("#plan-notes", Static).update(Content("\n").join(lines))

    @on(PlanForm.Changed)
    def _change(self, event: PlanForm.Changed) -> None:
        event.stop()
        # From what is shown: what the planner chose is not in the draft.
        shown = self.draft.tuned if self.plan is None else self.plan.preset
        if shown is None or self.starting:
            return
        moved = change(shown, event.name, event.direction)
        divided = None
        if moved.keys() & DIVISION:
            divided = self.draft.divided or event.name == MICRO
        self._take(self.draft.with_changes({**self.draft.changes, **moved}, divided))

    @on(PlanForm.Reset)
    def _give_back(self, event: PlanForm.Reset) -> None:
        event.stop()
        if not self.starting:
            self._take(self.draft.without(find(event.name).names))

    def apply(self, changes: dict[str, str]) -> None:
        """Take these overrides instead of those so far, without those that say what would be done anyhow."""
        self._take(self.draft.with_changes(changes))

    def _take(self, draft: Draft) -> None:
        self.draft = draft
        self.post_message(self.Changed(draft))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's
        """What makes it fit is offered where it does not."""
        return action != "fit" or bool(self.remedy)

    def action_fit(self) -> None:
        """Take the cheapest change with which it fits."""
        if self.remedy and not self.starting:
            self.apply({**self.draft.changes, **all_changes(self.remedy)})

    def action_reset(self) -> None:
        """Every setting as it would be chosen."""
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
        self.app.copy_to_clipboard(self.command)
        self.app.notify(clean(self.command), title="Copied", markup=False)


def _verdict(draft: Draft, plan: Plan, found: tuple[Advice, ...], starting: bool) -> Content:
    """What enter would do, and how much was changed by hand."""
    if starting:
        return Content.styled("● starting the worker …", "$primary")
    rows = [choice for choice in CHOICES if by_hand(choice, draft)]
    others = draft.changes.keys() - {name for choice in CHOICES for name in choice.names}
    count = len(rows) + len(others)
    words = Content.assemble(("● ", "$tuned"), f"{count} by hand, R resets · ") if count else Content("")
    if plan.vram.fits and not _room(plan):
        return Content.assemble(words, ("✓ ", "$success"), "enter starts it")
    return Content.assemble(words, ("✗ does not fit", "$error"), ": f makes it fit" if found else ": see below")


def _figures(plan: Plan) -> Content:
    summary = plan.summary
    rows = "rows" if summary.kind == "chat" else "sequences"
    tokens = format_count(round(summary.approximate_tokens * plan.passes))
    measured = " as measured here" if plan.measured_flops is not None else ""
    steps = f"{plan.steps:,} steps × {plan.effective_batch} {rows}"
    rest = f"{measured} · {steps} · {plan.passes:.3g} epochs · {tokens} tokens"
    return Content.assemble(("time  ", "$quiet"), (time_line(plan), "bold"), (rest, "$quiet"))


def _notes(plan: Plan, gpu: GpuReading | None, found: tuple[Advice, ...]) -> list[Content]:
    warnings = [Content.assemble(("! ", "$warning"), warning) for warning in plan.warnings]
    return [*_memory(plan, gpu, found), *_room(plan), *warnings]


def _memory(plan: Plan, gpu: GpuReading | None, found: tuple[Advice, ...]) -> list[Content]:
    """That it does not fit, and the cheapest change with which it would."""
    if plan.vram.fits:
        return []
    lines = [Content.styled(f"✗ It does not fit into the {'GPU' if plan.gpu else 'machine'}'s memory.", "$error")]
    if found:
        lines.append(Content.assemble(("  → f ", "bold $primary"), "makes it fit: ", " and ".join(map(str, found))))
        return lines
    helpful = advise(plan.preset, gpu, plan.correction, plan.longest)[:MUCH_ADVICE]
    lines += [Content.assemble(("  → ", "$primary"), str(advice)) for advice in helpful]
    return [*lines, Content.assemble(("  → ", "$primary"), "All that can be changed is not enough: a smaller model.")]


def _room(plan: Plan) -> list[Content]:
    """What else has too little room: the disks, and the machine's memory beside the GPU."""
    budgets = (
        (plan.disk, "The disk has too little room: free some, or set FINETUI_HOME."),
        (plan.cache, "The Hugging Face cache has too little room: free some, or set HF_HOME."),
        (plan.ram, "The machine's memory is too little: end other programs, or keep the checkpoints on the GPU."),
    )
    return [
        Content.styled(
            f"✗ {words} {format_bytes(budget.needed_bytes)} of {format_bytes(budget.available_bytes)}.", "$error"
        )
        for budget, words in budgets
        if budget is not None and not budget.fits
    ]
