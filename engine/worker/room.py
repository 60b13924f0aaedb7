"""The last look before a model is loaded: is the GPU's memory still as free as it was when the run was planned?"""

from __future__ import annotations

import os

from engine import gpu
from engine.errors import FitError
from engine.gpu import GpuReading
from engine.units import MIB, format_bytes
from engine.worker.context import Context

DRIFT_BYTES = 256 * MIB
"""What a desktop takes and gives back all the time."""


def require_room(context: Context) -> None:
    """Raise `FitError` that names who holds the memory if what the plan needs is not free any more.

    A plan that never fitted was started on purpose, and is not refused here. Where the driver does not tell its free
    memory there is nothing to compare.
    """
    planned = context.plan.gpu
    if context.plan.device != "cuda" or planned is None:
        return
    now = next((seen for seen in gpu.read().gpus if seen.uuid == planned.uuid), None)
    if now is None or now.free_bytes is None:
        return
    needed = context.plan.vram.needed_bytes
    taken = planned.free_bytes is not None and now.free_bytes < planned.free_bytes - DRIFT_BYTES
    if now.free_bytes < needed and taken:
        raise FitError("The GPU's memory was taken since this run was planned", _figures(now, needed), _hints(now))


def _figures(now: GpuReading, needed: int) -> str:
    free, total = format_bytes(now.free_bytes), format_bytes(now.total_bytes)
    return f"{now.name or 'the GPU'}: {format_bytes(needed)} needed, {free} of {total} free; nothing was loaded"


def _hints(now: GpuReading) -> tuple[str, ...]:
    others = tuple(gpu.holders(now, ours={os.getpid()}))
    unnamed = () if others else ("The driver does not name who holds it; `nvidia-smi` may, on the machine itself.",)
    return (*others, *unnamed, "Then start this run again, or plan a new one that needs less.")
