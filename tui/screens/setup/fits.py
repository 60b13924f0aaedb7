"""What this machine says to a preset, in a few words: whether it fits, how well, and what would help."""

from __future__ import annotations

from engine import planner, presets
from engine.config import Preset
from engine.events import Level
from engine.gpu import GpuReading
from engine.units import format_bytes
from engine.vram import PRACTICAL_MAX_LENGTH, Budget, ledger
from tui.widgets.preset_table import PresetRow

SMALL_PARAMETERS = 20_000_000
"""What two CPU cores train in about a minute."""
SLOW_PARAMETERS = 700_000_000
"""Above this a CPU takes days, and a 16-bit base takes more memory than most machines have to spare."""


def preset_row(preset: Preset, gpu: GpuReading | None) -> PresetRow:
    """The preset with what this machine says to it."""
    level, fit = fit_here(preset, gpu)
    return PresetRow(preset, level, fit, presets.is_local(preset), planned(preset, gpu))


def fit_here(preset: Preset, gpu: GpuReading | None) -> tuple[Level, str]:
    """Whether it can be trained here, in a few words.

    The figure is what the preset's own settings need; where that is too much, what the planner finds. The planner
    takes more than that where it makes the training faster.
    """
    if gpu is None:
        return _fit_cpu(preset)
    own, choice = ledger(preset, gpu), planner.choose(preset, gpu).budget
    if own.available_bytes is None:
        return "warning", f"{format_bytes(own.needed_bytes)} free not known"
    if choice.fits:
        return _spare(own if _roomy(own) else choice)
    shorter = _shorter(preset, gpu)
    if shorter is not None:
        length, budget = shorter
        return "warning", f"{format_bytes(budget.needed_bytes)} at {length} tokens"
    return "error", f"needs {format_bytes(choice.needed_bytes)}"


def planned(preset: Preset, gpu: GpuReading | None) -> str:
    """What the planner would take with rows of full length, and why; empty without a GPU or where nothing fits."""
    if gpu is None:
        return ""
    choice = planner.choose(preset, gpu)
    return f"{format_bytes(choice.budget.needed_bytes)}: {choice.why}" if choice.budget.fits else ""


def _roomy(budget: Budget) -> bool:
    return budget.needed_bytes * (1 + planner.HEADROOM) <= (budget.available_bytes or 0)


def _spare(budget: Budget) -> tuple[Level, str]:
    spare = format_bytes((budget.available_bytes or 0) - budget.needed_bytes)
    if _roomy(budget):
        return "ok", f"{format_bytes(budget.needed_bytes)} {spare} to spare"
    return "warning", f"{format_bytes(budget.needed_bytes)} tight: {spare} left"


def _shorter(preset: Preset, gpu: GpuReading) -> tuple[int, Budget] | None:
    """The longest rows, halved as often as it takes, with which it fits."""
    length = preset.train.max_length // 2
    while length >= PRACTICAL_MAX_LENGTH:
        budget = planner.choose(presets.override(preset, {"train.max_length": str(length)}), gpu).budget
        if budget.fits:
            return length, budget
        length //= 2
    return None


def _fit_cpu(preset: Preset) -> tuple[Level, str]:
    if preset.parameters <= SMALL_PARAMETERS:
        return "ok", "CPU, one minute"
    if preset.parameters <= SLOW_PARAMETERS:
        return "warning", "CPU, slow: hours"
    return "error", "no GPU: too slow"
