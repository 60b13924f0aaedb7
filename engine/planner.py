"""Chooses how much goes into one forward pass, and what of it is kept: as fast as the memory allows.

The effective batch and the length of a row decide what is learned, so they stay as they are. What is free to choose is
how the batch is divided (rows in a pass × passes to a step) and which layers are computed twice instead of kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import fsum
from typing import NamedTuple

from engine.config import Preset
from engine.datasets.report import TokenStats
from engine.estimate import batch_seconds
from engine.gpu import GpuReading
from engine.text import Text
from engine.vram import UNMEASURED, Budget, Correction, apply, ledger

HEADROOM = 0.08
"""Share of what is needed that must be free on top, as long as nothing was measured on this machine: the ledger may be
so far off. What only fits without it is taken where nothing else fits."""

WORTH = 0.02
"""Share of the time that more memory must save, to be taken."""

MICRO, PASSES = "train.micro_batch_size", "train.gradient_accumulation_steps"
SWITCH = "train.gradient_checkpointing"
EVERY, OFFLOAD = f"{SWITCH}_every", f"{SWITCH}_offload"
CHOSEN = (MICRO, PASSES, SWITCH, EVERY, OFFLOAD)
"""The settings that are chosen, if nobody has set them by hand."""


class Policy(NamedTuple):
    """Which layers are computed twice, and where their inputs wait."""

    name: str
    help: str
    changes: dict[str, str]
    """As `presets.override` takes them."""


def _policy(name: str, help: str, switch: bool, every: int = 1, offload: bool = False) -> Policy:
    values = {SWITCH: switch, EVERY: every, OFFLOAD: offload}
    return Policy(name, help, {key: str(value).lower() for key, value in values.items()})


POLICIES: tuple[Policy, ...] = (
    _policy("none", "Every layer keeps its activations: fastest, most memory.", False),
    _policy("every 4th layer", "A quarter of the layers is computed twice.", True, 4),
    _policy("every 3rd layer", "A third of the layers is computed twice.", True, 3),
    _policy("every 2nd layer", "Half of the layers is computed twice.", True, 2),
    _policy("all", "Every layer is computed twice and keeps its input alone.", True),
    _policy("offloaded", "As all, and the inputs wait in the machine's memory: least memory.", True, offload=True),
)
"""From the fastest to the one that needs the least."""


class Choice(NamedTuple):
    """The chosen settings, and what they need."""

    preset: Preset
    """With the choice applied."""
    changes: dict[str, str]
    """What was chosen otherwise than the preset has it, as `presets.override` takes it."""
    budget: Budget
    seconds_a_step: float
    """About, of one optimizer step; good for an order, not for a promise."""
    why: Text


def policy_of(preset: Preset) -> Policy | None:
    """The policy that a preset's settings are; None for one of the user's own."""
    train = preset.train
    if not train.gradient_checkpointing:
        return POLICIES[0]
    now = _policy("", "", True, train.gradient_checkpointing_every, train.gradient_checkpointing_offload).changes
    return next((policy for policy in POLICIES if policy.changes == now), None)


def choose(
    preset: Preset,
    gpu: GpuReading | None,
    *,
    fixed: Collection[str] = (),
    tokens: TokenStats | None = None,
    correction: Correction = UNMEASURED,
) -> Choice:
    """The fastest settings that fit the free memory less the ledger's margin, with the preset's effective batch.

    `fixed` names settings with their section that were set by hand: they stay. `tokens` are the lengths of the rows to
    learn from; without them every row counts as `max_length`. Where nothing fits, what needs the least is returned,
    and `budget.fits` is False. A GPU that does not tell its free memory gets the preset as it is.
    """
    longest = longest_row(tokens)
    if gpu is not None and gpu.free_bytes is None:
        return _tried(preset, {}, gpu, tokens, correction, longest)
    candidates = [_tried(preset, changes, gpu, tokens, correction, longest) for changes in _changes(preset, gpu, fixed)]
    spare = 0.0 if correction.measured else HEADROOM
    roomy = [choice for choice in candidates if _fits(choice.budget, spare)]
    fitting = roomy or [choice for choice in candidates if choice.budget.fits]
    if fitting:
        enough = min(choice.seconds_a_step for choice in fitting) * (1 + WORTH)
        candidates = [choice for choice in fitting if choice.seconds_a_step <= enough]
    return min(candidates, key=lambda choice: (choice.budget.needed_bytes, choice.seconds_a_step))


def longest_row(tokens: TokenStats | None) -> int | None:
    """The longest row in tokens, if every row was counted."""
    return tokens.longest if tokens is not None and tokens.rows and tokens.rows >= tokens.of_rows else None


def _fits(budget: Budget, spare: float) -> bool:
    return budget.available_bytes is None or budget.needed_bytes * (1 + spare) <= budget.available_bytes


def _changes(preset: Preset, gpu: GpuReading | None, fixed: Collection[str]) -> Iterator[dict[str, str]]:
    """Each combination of a division of the batch and a policy, as changes."""
    for micro, passes in _divisions(preset, fixed):
        for policy in POLICIES:
            if policy.changes[OFFLOAD] == "true" and gpu is None:
                continue
            wanted = {MICRO: str(micro), PASSES: str(passes), **policy.changes}
            yield {name: value for name, value in wanted.items() if name not in fixed}


def _divisions(preset: Preset, fixed: Collection[str]) -> list[tuple[int, int]]:
    """Rows in a pass and passes to a step whose product is the effective batch."""
    train = preset.train
    if MICRO in fixed or PASSES in fixed:
        return [(train.micro_batch_size, train.gradient_accumulation_steps)]
    batch = train.micro_batch_size * train.gradient_accumulation_steps
    return [(micro, batch // micro) for micro in range(1, batch + 1) if batch % micro == 0]


def _tried(
    preset: Preset,
    changes: dict[str, str],
    gpu: GpuReading | None,
    tokens: TokenStats | None,
    correction: Correction,
    longest: int | None,
) -> Choice:
    chosen = apply(preset, changes)
    budget = ledger(chosen, gpu, correction, longest)
    train = chosen.train
    mean, filled = lengths(tokens, train.max_length, train.micro_batch_size)
    name = None if gpu is None else gpu.name or ""
    seconds = train.gradient_accumulation_steps * batch_seconds(chosen, train.micro_batch_size * filled, mean, name)
    return Choice(chosen, _differing(preset, chosen), budget, seconds, _why(chosen, filled))


def lengths(tokens: TokenStats | None, max_length: int, rows: int) -> tuple[float, float]:
    """Mean length of a row, and mean length that `rows` rows drawn at random are filled up to; both in tokens."""
    if tokens is None or not tokens.rows or not tokens.lengths:
        return float(max_length), float(max_length)
    mean = min(tokens.tokens / tokens.rows, _filled(tokens, max_length, 1))
    return mean, max(_filled(tokens, max_length, rows), mean)


def _filled(tokens: TokenStats, max_length: int, rows: int) -> float:
    """Mean of the longest of `rows` rows, cut at `max_length`, each counted as the upper end of its bin."""
    below, parts = 0, []
    for number, count in enumerate(tokens.lengths):
        room = min(tokens.width, max_length - number * tokens.width)
        if room <= 0:
            break
        # The longest of the rows reaches into this bin unless all of them end below it.
        parts.append((1 - (below / tokens.rows) ** rows) * room)
        below += count
    return fsum(parts)


def _differing(preset: Preset, chosen: Preset) -> dict[str, str]:
    before, after = preset.train.model_dump(), chosen.train.model_dump()
    keys = [name.partition(".")[2] for name in CHOSEN]
    return {f"train.{key}": str(after[key]).lower() for key in keys if before[key] != after[key]}


def _why(chosen: Preset, filled: float) -> str:
    train, policy = chosen.train, policy_of(chosen)
    batch = f"{train.micro_batch_size} × {train.gradient_accumulation_steps} rows to a step"
    passed = f"about {train.micro_batch_size * filled:,.0f} tokens in a pass"
    return f"{batch}, {passed}, layers computed twice: {policy.name if policy else 'as you set it'}"
