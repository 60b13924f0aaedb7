"""What the three steps have agreed on so far, and what follows from it. Nothing here draws."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine import presets, vram
from engine.config import DatasetSpec, Preset
from engine.datasets.scan import DatasetReport
from engine.events import Level
from engine.gpu import GpuReading
from engine.plan import Plan, make_plan
from engine.units import MIB, format_bytes
from engine.vram import Advice
from tui.widgets.preset_table import PresetRow

SMALL_PARAMETERS = 20_000_000
"""What two CPU cores train in about a minute."""
SLOW_PARAMETERS = 700_000_000
"""Above this a CPU takes days, and a 16-bit base takes more memory than most machines have to spare."""


@dataclass(frozen=True)
class Draft:
    """A run that is being set up; each step adds to it."""

    preset: Preset | None = None
    data: DatasetSpec | None = None
    report: DatasetReport | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    """Settings that differ from the preset, as `presets.override` takes them."""

    @property
    def tuned(self) -> Preset | None:
        """The preset with the changes applied."""
        return presets.override(self.preset, self.changes) if self.preset else None

    def plan(self, gpu: GpuReading | None) -> Plan:
        """The plan of this draft on this machine. Raises `DataError`, or `ValueError` while a step is missing."""
        if self.tuned is None or self.data is None or self.report is None:
            raise ValueError("there is no model or no data yet")
        return make_plan(self.tuned, self.data, self.report, gpu)

    @property
    def command(self) -> str:
        """The same on the command line."""
        words = ["finetui", "train"]
        if self.preset is not None:
            words += ["--preset", self.preset.name if _is_listed(self.preset) else self.preset.model]
        if self.data is not None and not (self.preset and self.data == self.preset.data):
            words += ["--data", self.data.path]
        if self.changes:
            words += ["--set", *(f"{name}={value}" for name, value in self.changes.items())]
        return shlex.join(words)


def _is_listed(preset: Preset) -> bool:
    return any(known.name == preset.name for known in presets.list_presets())


def preset_row(preset: Preset, gpu: GpuReading | None) -> PresetRow:
    """The preset with what this machine says to it."""
    level, fit = fit_here(preset, gpu)
    return PresetRow(preset, level, fit, presets.is_local(preset))


def fit_here(preset: Preset, gpu: GpuReading | None) -> tuple[Level, str]:
    """Whether it can be trained here, in a few words."""
    if gpu is None:
        return _fit_cpu(preset)
    budget = vram.ledger(preset, gpu)
    if budget.fits:
        spare = (budget.available_bytes or budget.needed_bytes) - budget.needed_bytes
        return "ok", f"{format_bytes(budget.needed_bytes)}  {format_bytes(spare)} to spare"
    missing = budget.needed_bytes - (budget.available_bytes or 0)
    helpful = next((advice for advice in vram.advise(preset, gpu) if advice.saved_bytes >= missing), None)
    if helpful is not None:
        return "warning", f"with {_briefly(helpful)}"
    return "error", f"needs {format_bytes(budget.needed_bytes)}"


def _fit_cpu(preset: Preset) -> tuple[Level, str]:
    if preset.parameters <= SMALL_PARAMETERS:
        return "ok", "CPU, one minute"
    if preset.parameters <= SLOW_PARAMETERS:
        return "warning", "CPU, slow: hours"
    return "error", "no GPU: too slow"


def _briefly(advice: Advice) -> str:
    return f"{advice.setting.rpartition('.')[2].replace('_', ' ')} {advice.after}"


def differs(before: GpuReading | None, after: GpuReading | None) -> bool:
    """True if the second reading would change a plan: another GPU, or much more or less room on it."""
    if before is None or after is None:
        return before is not after
    moved = abs((before.free_bytes or 0) - (after.free_bytes or 0))
    return before.uuid != after.uuid or moved > 128 * MIB
