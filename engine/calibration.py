"""What trainings on this machine really needed, kept as one JSON object a line, and what the next plan makes of it.

The worker measures the longest batch before the first step (and the speed afterwards) and appends a `Measurement`.
The next plan for the same key takes the nearest measurement in tokens and corrects the ledger with it; for the time it
takes the speed that was reached. A new version of a library, another card or another flag is another key, which starts
without a correction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from pydantic import ValidationError

from engine.config import Frozen, Preset
from engine.estimate import training_flop
from engine.gpu import GpuReading
from engine.paths import home
from engine.text import Text
from engine.vram import CUDA_CONTEXT_BYTES, UNMEASURED, Correction, Part, split

LIBRARIES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
"""Whose versions decide what a training needs."""

LIMITS = (0.5, 2.0)
"""A measurement of less or more than this multiple of the ledger is of something else, and is not believed."""

KEPT = 1000
"""Only so many of the newest measurements are looked at."""


class Key(Frozen):
    """What must be the same for a measurement to say something."""

    architecture: str
    """The family and the numbers of the model."""
    flags: str
    """Settings that decide which code runs: quantization, checkpoints, optimizer, dropout, one row or several."""
    versions: str
    gpu: Text


class Measurement(Frozen):
    """One training's longest batch, or its speed, beside what was predicted."""

    t: float
    """Seconds since 1970."""
    key: Key
    parts: tuple[Part, ...]
    """The plan's ledger."""
    resident_bytes: int
    """Predicted: what is in memory before the measured pass, before any correction."""
    moving_bytes: int
    """Predicted: the most that comes and goes with the tokens, before any correction."""
    rows: int
    """Of the measured micro-batch."""
    length: int
    """Tokens of its longest row."""
    loaded_bytes: int
    """Measured: allocated before the measured pass (`torch.cuda.memory_allocated`)."""
    allocated_bytes: int
    """Measured: the most that was allocated in it (`torch.cuda.max_memory_allocated`)."""
    reserved_bytes: int
    """Measured: the most that PyTorch's allocator held in it (`torch.cuda.max_memory_reserved`)."""
    context_bytes: int | None = None
    """Measured: what the driver counts for the process, less what is reserved; None where it does not tell."""
    flops: float | None = None
    """Reached: FLOP a second, by the formula of `estimate`; None before the first steps."""

    @property
    def tokens(self) -> int:
        """Of the measured micro-batch."""
        return self.rows * self.length

    @property
    def predicted_bytes(self) -> int:
        """What the plan expected, all parts together."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def measured_bytes(self) -> int:
        """What it took: reserved by PyTorch, and the context."""
        return self.reserved_bytes + (CUDA_CONTEXT_BYTES if self.context_bytes is None else self.context_bytes)


def key_of(preset: Preset, gpu: GpuReading | None) -> Key:
    """The key of a preset's training on a GPU of this kind; `gpu` None is the CPU."""
    train = preset.train
    flags = {
        "quantization": train.quantization,
        "checkpoints": train.gradient_checkpointing,
        "every": train.gradient_checkpointing_every if train.gradient_checkpointing else 1,
        "offload": train.gradient_checkpointing and train.gradient_checkpointing_offload,
        "optimizer": train.optimizer,
        "dropout": preset.lora.dropout > 0,
        "filled up": train.micro_batch_size > 1,
    }
    return Key(
        architecture=f"{preset.family} {_listed(preset.architecture.model_dump())}",
        flags=_listed(flags),
        versions=_listed({name: _version(name) for name in LIBRARIES}),
        gpu="CPU" if gpu is None else gpu.name or "",
    )


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def measurement(
    preset: Preset,
    gpu: GpuReading | None,
    parts: Sequence[Part],
    *,
    length: int,
    loaded_bytes: int,
    allocated_bytes: int,
    reserved_bytes: int,
    context_bytes: int | None = None,
    absent: Collection[str] = ("optimizer",),
    tokens_per_s: float | None = None,
) -> Measurement:
    """What the worker saw in one forward and backward pass over rows of `length` tokens, as a value to keep.

    `absent` names parts that were not in memory yet when the pass began: before the first step the optimizer's moments.
    The gradients must be there, so the pass is run twice and the second one measured.
    """
    resident, moving = split(preset, on_cpu=gpu is None, longest=length, absent=absent)
    return Measurement(
        t=time.time(),
        key=key_of(preset, gpu),
        parts=tuple(parts),
        resident_bytes=resident,
        moving_bytes=moving,
        rows=preset.train.micro_batch_size,
        length=length,
        loaded_bytes=loaded_bytes,
        allocated_bytes=allocated_bytes,
        reserved_bytes=reserved_bytes,
        context_bytes=context_bytes,
        flops=None if tokens_per_s is None else tokens_per_s * training_flop(preset, 1, length),
    )


def path() -> Path:
    """Where the measurements of this machine lie."""
    return home() / "measurements.jsonl"


def record(found: Measurement) -> None:
    """Append it with one write, so that two trainings do not mix their lines. Raises OSError if the disk is full."""
    path().parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, found.model_dump_json().encode() + b"\n")
    finally:
        os.close(descriptor)


def measurements() -> list[Measurement]:
    """The newest measurements, oldest first. Lines of another version of finetui, or cut off, are passed over."""
    if not path().exists():
        return []
    lines = path().read_bytes().splitlines()[-KEPT:]
    return [found for line in lines if (found := _parse(line)) is not None]


def _parse(line: bytes) -> Measurement | None:
    try:
        return Measurement.model_validate_json(line)
    except ValidationError:
        return None


def correction(preset: Preset, gpu: GpuReading | None, known: Sequence[Measurement] | None = None) -> Correction:
    """What measurements say to the ledger of this preset; `UNMEASURED` if there is none with its key.

    Of several with the key the one nearest in tokens counts, of those the newest. `known` None: read now.
    """
    key, tokens = key_of(preset, gpu), preset.train.micro_batch_size * preset.train.max_length
    fitting = [found for found in _known(known) if found.key == key and _believable(found)]
    if not fitting:
        return UNMEASURED
    best = min(fitting, key=lambda found: (abs(found.tokens - tokens), -found.t))
    return Correction(
        activations=_moving(best) / best.moving_bytes,
        resident_bytes=best.loaded_bytes - best.resident_bytes,
        fragmentation=max(best.reserved_bytes / best.allocated_bytes - 1, 0.0),
        context_bytes=CUDA_CONTEXT_BYTES if best.context_bytes is None else best.context_bytes,
        measured=True,
    )


def _known(known: Sequence[Measurement] | None) -> Sequence[Measurement]:
    return measurements() if known is None else known


def _moving(found: Measurement) -> int:
    return found.allocated_bytes - found.loaded_bytes


def _believable(found: Measurement) -> bool:
    if found.moving_bytes <= 0 or not 0 < found.allocated_bytes <= found.reserved_bytes:
        return False
    return LIMITS[0] <= _moving(found) / found.moving_bytes <= LIMITS[1]


def reached_flops(preset: Preset, gpu: GpuReading | None, known: Sequence[Measurement] | None = None) -> float | None:
    """FLOP a second that trainings reached here: of this key, else on this card; None if there were none.

    The median of the newest nine, as other work on the machine makes single ones slow.
    """
    key = key_of(preset, gpu)
    timed = [found for found in _known(known) if found.flops is not None and found.key.gpu == key.gpu]
    same = [found for found in timed if found.key == key] or timed
    newest = [found.flops for found in same[-9:] if found.flops is not None]
    return median(newest) if newest else None
