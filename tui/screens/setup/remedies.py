"""The cheapest change that makes a plan fit. Pure functions."""

from __future__ import annotations

from engine.gpu import GpuReading
from engine.plan import Plan
from engine.vram import Advice, advise, apply, ledger

HARMLESS = (
    "train.gradient_checkpointing",
    "train.gradient_checkpointing_every",
    "train.gradient_checkpointing_offload",
    "train.micro_batch_size",
    "train.optimizer",
)
"""Settings that cost time at most; what is learned stays."""

MOST = 6
"""Changes that are tried together."""


def remedy(plan: Plan, gpu: GpuReading | None) -> tuple[Advice, ...]:
    """The changes to make together so that it fits: one where one is enough, the cheapest; empty if none are enough."""
    found: list[Advice] = []
    preset, budget = plan.preset, plan.vram
    while not budget.fits and len(found) < MOST:
        offered = advise(preset, gpu, plan.correction, plan.longest)
        if not offered:
            return ()
        missing = budget.needed_bytes - (budget.available_bytes or 0)
        enough = [advice for advice in offered if advice.saved_bytes >= missing]
        best = min(enough, key=_cost) if enough else offered[0]
        found.append(best)
        preset = apply(preset, best.changes)
        budget = ledger(preset, gpu, plan.correction, plan.longest)
    return _joined(found) if budget.fits else ()


def changes(advice: tuple[Advice, ...]) -> dict[str, str]:
    """All of them, as `presets.override` takes them."""
    return {name: value for each in advice for name, value in each.changes.items()}


def _cost(advice: Advice) -> tuple[bool, int]:
    return advice.setting not in HARMLESS, advice.saved_bytes


def _joined(found: list[Advice]) -> tuple[Advice, ...]:
    """One advice a setting: `2048 → 1024` and `1024 → 512` are `2048 → 512`."""
    joined: dict[str, Advice] = {}
    for advice in found:
        first = joined.get(advice.setting, advice)
        saved = advice.saved_bytes + (first.saved_bytes if first is not advice else 0)
        joined[advice.setting] = advice.model_copy(update={"before": first.before, "saved_bytes": saved})
    return tuple(joined.values())
