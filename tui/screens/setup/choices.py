"""The few settings that most people change, each with its ladder of sensible values. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine import presets
from engine.config import Preset
from engine.families import FAMILIES
from engine.plan import Plan
from engine.units import format_count
from tui.widgets.plan_form import FormRow

LENGTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 65536, 131072)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RANKS = (4, 8, 16, 32, 64, 128, 256)
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3)
EPOCHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)

Changes = dict[str, str]


@dataclass(frozen=True)
class Choice:
    """A row of the form: what it shows, and what one step up or down changes."""

    setting: str
    label: str
    value: Callable[[Preset], str]
    note: Callable[[Plan], str]
    step: Callable[[Preset, int], Changes]


def form_rows(plan: Plan, changes: Mapping[str, str]) -> list[FormRow]:
    """Every row of the form for this plan."""
    helps = {setting.name: setting.help for setting in presets.settings(plan.preset)}
    return [
        FormRow(
            choice.setting,
            choice.label,
            choice.value(plan.preset),
            choice.note(plan),
            " ".join(helps.get(choice.setting, "").split()),
            choice.setting in changes,
        )
        for choice in CHOICES
    ]


def change(preset: Preset, setting: str, direction: int) -> Changes:
    """What to override so that the setting is one step more (1) or less (-1); nothing at the end of its ladder."""
    found = next(choice for choice in CHOICES if choice.setting == setting)
    return found.step(preset, direction)


def neighbour(ladder: Sequence[float], value: float, direction: int) -> float:
    """The next value of the ladder above or below; the value itself at the ends."""
    if direction > 0:
        return next((rung for rung in ladder if rung > value * (1 + 1e-9)), value)
    return next((rung for rung in reversed(ladder) if rung < value * (1 - 1e-9)), value)


def number(value: float) -> str:
    """`2e-4` for small figures, `3` for whole ones."""
    if value and abs(value) < 0.01:
        digits, exponent = f"{value:e}".split("e")
        return f"{float(digits):g}e{int(exponent)}"
    return f"{value:g}"


def _length(preset: Preset, direction: int) -> Changes:
    ladder = sorted({*(rung for rung in LENGTHS if rung <= preset.context_length), preset.context_length})
    return {"train.max_length": number(neighbour(ladder, preset.train.max_length, direction))}


def _batch(preset: Preset, direction: int) -> Changes:
    train = preset.train
    wanted = int(neighbour(BATCHES, train.micro_batch_size * train.gradient_accumulation_steps, direction))
    return _batches(wanted, min(train.micro_batch_size, wanted))


def _micro(preset: Preset, direction: int) -> Changes:
    train = preset.train
    effective = train.micro_batch_size * train.gradient_accumulation_steps
    divisors = [size for size in range(1, effective + 1) if effective % size == 0]
    return _batches(effective, int(neighbour(divisors, train.micro_batch_size, direction)))


def _batches(effective: int, micro: int) -> Changes:
    while effective % micro:
        micro -= 1
    return {
        "train.micro_batch_size": str(micro),
        "train.gradient_accumulation_steps": str(effective // micro),
    }


def _rank(preset: Preset, direction: int) -> Changes:
    rank = int(neighbour(RANKS, preset.lora.rank, direction))
    alpha = max(1, round(preset.lora.alpha * rank / preset.lora.rank))
    return {"lora.rank": str(rank), "lora.alpha": str(alpha)}


def _rate(preset: Preset, direction: int) -> Changes:
    return {"train.learning_rate": number(neighbour(RATES, preset.train.learning_rate, direction))}


def _epochs(preset: Preset, direction: int) -> Changes:
    changes = {"train.epochs": number(neighbour(EPOCHS, preset.train.epochs, direction))}
    if preset.train.max_steps is not None:
        changes["train.max_steps"] = "none"  # it would win over the epochs
    return changes


def _length_note(plan: Plan) -> str:
    return f"longer rows are cut; the model reads up to {plan.preset.context_length:,}"


def _batch_note(plan: Plan) -> str:
    train = plan.train
    return f"{train.micro_batch_size} × {train.gradient_accumulation_steps} accumulated · rows to one step"


def _epochs_note(plan: Plan) -> str:
    train = plan.train
    seen = plan.steps * plan.effective_batch / max(plan.summary.rows, 1)
    limit = f"max_steps comes first: {seen:.1f} epochs · " if train.max_steps is not None else ""
    return f"{limit}{plan.steps:,} steps"


def _rank_note(plan: Plan) -> str:
    preset = plan.preset
    trained = FAMILIES[preset.family].lora_parameters(preset.architecture, plan.lora.rank)
    return f"{format_count(trained)} trained ({trained / preset.parameters:.1%} of the model)"


def _rate_note(plan: Plan) -> str:
    return f"{plan.train.lr_scheduler_type}, after {plan.warmup_steps} steps of warm-up"


def _micro_note(_plan: Plan) -> str:
    return "rows in memory at once; what is learned stays"


CHOICES = (
    Choice("train.max_length", "max length", lambda p: str(p.train.max_length), _length_note, _length),
    Choice(
        "train.gradient_accumulation_steps",
        "effective batch",
        lambda p: str(p.train.micro_batch_size * p.train.gradient_accumulation_steps),
        _batch_note,
        _batch,
    ),
    Choice("train.micro_batch_size", "micro batch", lambda p: str(p.train.micro_batch_size), _micro_note, _micro),
    Choice("lora.rank", "rank / alpha", lambda p: f"{p.lora.rank} / {p.lora.alpha}", _rank_note, _rank),
    Choice("train.learning_rate", "learning rate", lambda p: number(p.train.learning_rate), _rate_note, _rate),
    Choice("train.epochs", "epochs", lambda p: number(p.train.epochs), _epochs_note, _epochs),
)
