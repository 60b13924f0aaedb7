"""What the form says beside each setting: what follows from the value, what it does, its default and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine import planner, presets
from engine.families import FAMILIES
from engine.gpu import GpuReading
from engine.plan import Plan
from engine.planner import MICRO, PASSES, SWITCH, policy_of
from engine.units import format_bytes, format_count
from engine.vram import ledger
from tui.screens.setup.choices import CHOICES, Choice, change, find
from tui.screens.setup.draft import Draft
from tui.widgets.length_histogram import describe_cut
from tui.widgets.plan_form import FormRow


@dataclass(frozen=True)
class View:
    """What the notes are made from."""

    draft: Draft
    plan: Plan
    gpu: GpuReading | None

    def more(self, changes: dict[str, str]) -> str:
        """`+0.9 GiB`: what changes to the plan take more, the rest as it stands."""
        plan = self.plan
        changed = presets.override(plan.preset, changes)
        bytes_ = ledger(changed, self.gpu, plan.correction, plan.longest).needed_bytes - plan.vram.needed_bytes
        return f"{'+' if bytes_ >= 0 else '−'}{format_bytes(abs(bytes_))}"


def form_rows(draft: Draft, plan: Plan, gpu: GpuReading | None) -> list[FormRow]:
    """Every row of the form for this plan."""
    view = View(draft, plan, gpu)
    helps = {setting.name: " ".join(setting.help.split()) for setting in presets.settings(plan.preset)}
    return [
        FormRow(
            choice.setting,
            choice.label,
            choice.value(plan.preset),
            NOTES[choice.setting](view),
            _help(choice, plan, helps),
            _default(choice, view),
            by_hand(choice, draft),
        )
        for choice in CHOICES
    ]


def by_hand(choice: Choice, draft: Draft) -> bool:
    """True if the person changed it."""
    if choice.setting == MICRO:
        return draft.divided
    if choice.setting == PASSES and draft.preset is not None and draft.tuned is not None:
        return choice.value(draft.preset) != choice.value(draft.tuned)
    return bool(choice.names & draft.changes.keys())


def _help(choice: Choice, plan: Plan, helps: dict[str, str]) -> str:
    if choice.setting == PASSES:
        return "How many rows one optimizer step learns from; memory hangs on the rows in a pass alone."
    policy = policy_of(plan.preset) if choice.setting == SWITCH else None
    return f"Layers computed twice save memory and take time. {policy.help}" if policy else helps[choice.setting]


def _default(choice: Choice, view: View) -> str:
    """`Default 2e-4: …`, or what the planner chose and why."""
    draft, plan = view.draft, view.plan
    if view.gpu is not None and choice.setting in (MICRO, SWITCH):
        if not by_hand(choice, draft):
            return f"Chosen: the fastest that fits. {_sentence(plan.why)}"
        chosen = _unbound(choice, view)
        return f"By hand; r gives it back: {choice.value(chosen.preset)} would be chosen. {_sentence(chosen.why)}"
    own = draft.preset or plan.preset
    said = f"Default {choice.value(own)}: {choice.why(own)}."
    return f"By hand; r gives it back. {said}" if by_hand(choice, draft) else said


def _unbound(choice: Choice, view: View) -> planner.Choice:
    """What the planner would take if this were not set by hand."""
    free = view.draft.without(choice.names)
    tokens = free.report.tokens if free.report is not None and free.report.kind == "chat" else None
    preset = free.tuned or view.plan.preset
    return planner.choose(preset, view.gpu, fixed=free.fixed, tokens=tokens, correction=view.plan.correction)


def _sentence(text: str) -> str:
    return f"{text}." if text else ""


def _length_note(view: View) -> str:
    preset, report = view.plan.preset, view.draft.report
    words = []
    if report is not None and report.kind == "text":
        words.append("raw text is packed: nothing is cut")
    elif report is not None and report.tokens is not None:
        words.append(describe_cut(report.tokens, preset.train.max_length).plain)
    else:
        words.append("cut rows are not counted")
    longer = change(preset, "train.max_length", 1)
    if longer["train.max_length"] == str(preset.train.max_length):
        words.append("all that the model reads")
    else:
        words.append(f"{longer['train.max_length']}: {view.more(longer)}")
    return " · ".join(words)


def _batch_note(view: View) -> str:
    train = view.plan.train
    return f"{train.micro_batch_size} × {train.gradient_accumulation_steps} accumulated · {view.plan.steps:,} steps"


def _micro_note(view: View) -> str:
    chosen = _who(view, view.draft.divided)
    more = change(view.plan.preset, MICRO, 1)
    if more[MICRO] == str(view.plan.train.micro_batch_size):
        return f"{chosen} · all of the batch"
    return f"{chosen} · {more[MICRO]}: {view.more(more)}"


def _policy_note(view: View) -> str:
    return _who(view, by_hand(find(SWITCH), view.draft))


def _who(view: View, person: bool) -> str:
    if person:
        return "by hand"
    return "chosen: fastest that fits" if view.plan.why and view.plan.vram.fits else "as in the preset"


def _rank_note(view: View) -> str:
    preset = view.plan.preset
    trained = FAMILIES[preset.family].lora_parameters(preset.architecture, preset.lora.rank)
    share = f"{format_count(trained)} trained ({trained / preset.parameters:.1%})"
    return f"{share} · {change(preset, 'lora.rank', 1)['lora.rank']}: {view.more(change(preset, 'lora.rank', 1))}"


def _precision_note(view: View) -> str:
    if view.plan.train.quantization == "nf4":
        return f"QLoRA · 16 bits: {view.more({'train.quantization': 'none'})}"
    return f"LoRA · 4 bits: {view.more({'train.quantization': 'nf4'})}"


def _rate_note(view: View) -> str:
    return f"{view.plan.train.lr_scheduler_type}, after {view.plan.warmup_steps} steps of warm-up"


def _epochs_note(view: View) -> str:
    plan = view.plan
    limit = f"max_steps comes first: {plan.passes:.1f} epochs · " if plan.train.max_steps is not None else ""
    return f"{limit}eval every {plan.train.eval_steps} steps on {plan.summary.eval_rows:,} rows"


NOTES: dict[str, Callable[[View], str]] = {
    "train.max_length": _length_note,
    PASSES: _batch_note,
    MICRO: _micro_note,
    "lora.rank": _rank_note,
    "train.quantization": _precision_note,
    "train.learning_rate": _rate_note,
    "train.epochs": _epochs_note,
    SWITCH: _policy_note,
}
