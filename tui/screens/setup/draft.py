"""What the three steps have agreed on so far, and what follows from it. Nothing here draws."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from engine import presets
from engine.config import DatasetSpec, Preset
from engine.datasets.report import DatasetReport
from engine.gpu import GpuReading
from engine.paths import absolute
from engine.plan import Plan, make_plan
from engine.planner import CHOSEN, MICRO, PASSES
from engine.units import MIB

DATA_SETTINGS = tuple(sorted({*DatasetSpec.model_fields} - {"path", "format", "columns", "subset", "split", "source"}))
"""What is said of data in step three; the rest says which data they are, and how they are read."""
DIVISION = frozenset({MICRO, PASSES})
"""How the effective batch is divided."""


@dataclass(frozen=True)
class Draft:
    """A run that is being set up; each step adds to it."""

    preset: Preset | None = None
    data: DatasetSpec | None = None
    report: DatasetReport | None = None
    changes: Mapping[str, str] = field(default_factory=dict)
    """Settings that the person changed, as `presets.override` takes them: those that differ from the preset, and of
    those that the planner would choose also the ones that do not."""
    divided: bool = False
    """The person said how many rows go into one pass; else only the product of `DIVISION` in `changes` counts."""

    @property
    def fixed(self) -> frozenset[str]:
        """The settings that the planner leaves as they are."""
        return frozenset(name for name in self.changes if name in CHOSEN and (self.divided or name not in DIVISION))

    @property
    def tuned(self) -> Preset | None:
        """The preset with the changes applied."""
        return presets.override(self.preset, self.changes) if self.preset else None

    def with_changes(self, changes: Mapping[str, str], divided: bool | None = None) -> Draft:
        """With these overrides instead of those so far, without those that say what would be done anyhow.

        `divided` None: the batch's division is by hand if it was, or if these overrides change it.
        """
        if self.preset is None:
            return self
        if divided is None:
            moved = any(changes.get(name) != self.changes.get(name) for name in DIVISION)
            divided = (self.divided or moved) and bool(DIVISION & changes.keys())
        tuned = presets.override(self.preset, changes)
        same = _equal(self.preset, tuned)
        same -= {name for name in CHOSEN if divided or name not in DIVISION}  # equal to the preset, not to the choice
        if not divided:
            same = same - DIVISION if _batch(tuned) != _batch(self.preset) else same | DIVISION
        kept = {name: text for name, text in changes.items() if name not in same}
        return replace(self, changes=kept, divided=divided)

    def without(self, names: frozenset[str]) -> Draft:
        """With these settings given back to the planner or the preset; rows in a pass keep the effective batch."""
        if names == {MICRO}:
            return self.with_changes(self.changes, divided=False)
        kept = {name: text for name, text in self.changes.items() if name not in names}
        return self.with_changes(kept, divided=self.divided and not names & DIVISION)

    def decided(self, plan: Plan) -> Draft:
        """With the division that the plan has, where the batch was changed: what the command line needs to agree."""
        if self.divided or not DIVISION & self.changes.keys():
            return self
        micro, passes = plan.train.micro_batch_size, plan.train.gradient_accumulation_steps
        return replace(self, changes={**self.changes, MICRO: str(micro), PASSES: str(passes)})

    def settled(self, data: DatasetSpec) -> DatasetSpec:
        """The data with what the settings say of them (held-out rows, gold, mixing), as on the command line.

        The files that a preset brings belong to its own data: others are not judged by them.
        """
        if self.preset is None:
            return data
        own = self.preset.data if self.is_bundled(data) else DatasetSpec()
        changes = {name: text for name, text in self.changes.items() if name.startswith("data.")}
        tuned = presets.override(self.preset.model_copy(update={"data": own}), changes).data
        values = {name: getattr(tuned, name) for name in DATA_SETTINGS}
        files = {name: str(absolute(values[name])) for name in presets.DATA_FILES if values.get(name)}
        return data.model_copy(update={**values, **files})

    def is_bundled(self, data: DatasetSpec | None) -> bool:
        """True for the data that come with the preset."""
        return self.preset is not None and data is not None and bool(data.path) and data.path == self.preset.data.path

    def plan(self, gpu: GpuReading | None) -> Plan:
        """The plan of this draft on this machine. Raises `DataError`, or `ValueError` while a step is missing."""
        if self.tuned is None or self.data is None or self.report is None:
            raise ValueError("there is no model or no data yet")
        return make_plan(self.tuned, self.data, self.report, gpu, fixed=self.fixed)

    @property
    def command(self) -> str:
        """The same on the command line."""
        words = ["finetui", "train"]
        if self.preset is not None:
            words += ["--preset", self.preset.name if _is_listed(self.preset) else self.preset.model]
        if self.data is not None:
            words += [] if self.is_bundled(self.data) else ["--data", self.data.path]
            words += _reading(self.data)
        if self.changes:
            words += ["--set", *(f"{name}={value}" for name, value in self.changes.items())]
        return shlex.join(words)


def _reading(data: DatasetSpec) -> list[str]:
    """How the rows were said to be written."""
    if data.columns:
        return ["--columns", data.columns]
    return ["--format", data.format] if data.format != "auto" else []


@lru_cache(maxsize=8)  # asked for at each key; a preset of the list does not leave it while a run is set up
def _is_listed(preset: Preset) -> bool:
    return any(known.name == preset.name for known in presets.list_presets())


def _equal(preset: Preset, tuned: Preset) -> set[str]:
    """The settings that both have alike."""
    own = {setting.name: setting.value for setting in presets.settings(preset)}
    return {setting.name for setting in presets.settings(tuned) if own[setting.name] == setting.value}


def _batch(preset: Preset) -> int:
    return preset.train.micro_batch_size * preset.train.gradient_accumulation_steps


def differs(before: GpuReading | None, after: GpuReading | None) -> bool:
    """True if the second reading would change a plan: another GPU, or much more or less room on it."""
    if before is None or after is None:
        return before is not after
    moved = abs((before.free_bytes or 0) - (after.free_bytes or 0))
    return before.uuid != after.uuid or moved > 128 * MIB
