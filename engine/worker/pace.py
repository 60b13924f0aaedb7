"""Whether training goes as fast as it went, and what has slowed it down: memory that spills makes no error.

Windows' drivers move memory of a full GPU to RAM instead of refusing it; then a step takes ten times as long.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from engine.events import Step
from engine.gpu import GpuReading
from engine.units import format_bytes, format_share

SLOW = 4.0
"""How many times slower than usual is told. Sorting rows by length makes a factor of two; spilling makes ten."""

RECENT = 3
"""Steps in a row that must be slow: a checkpoint or an evaluation beside one step is no change of pace."""

USUAL = 50
"""Steps that say what is usual, the first ones, in which kernels are chosen and memory grows, among the fewest."""

FULL = 0.97
"""Share of the GPU's memory from which on it is called full."""

HOT_C = 84.0
"""NVIDIA's desktop cards begin to slow down at 83 to 90 °C."""

IDLE = 0.3
"""Load of the GPU below which it waits for something else."""


class Pace:
    """Follows the speed of training, in tokens a second, so that longer rows do not look like a slow machine."""

    def __init__(self) -> None:
        self._usual: deque[float] = deque(maxlen=USUAL)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._slow = False

    def follow(self, step: Step) -> float | None:
        """How many times slower than usual it has become; None as long as that is not new, or not so."""
        if not step.tokens_per_s:
            return None
        self._recent.append(step.tokens_per_s)
        factor = self._factor()
        if factor < SLOW:
            self._usual.append(step.tokens_per_s)
        turned = factor >= SLOW and not self._slow
        # Told once, and again only after it went well in between.
        self._slow = factor >= SLOW or (self._slow and factor > SLOW / 2)
        return factor if turned else None

    def _factor(self) -> float:
        if len(self._usual) < 2 * RECENT or len(self._recent) < RECENT:
            return 1.0
        return median(self._usual) / max(self._recent)


def cause(gpu: GpuReading | None, ours: int) -> str:
    """The likeliest reason for slow steps, from what the GPU says; `ours` is the worker's pid."""
    if gpu is None:
        return "The GPU does not say why; `finetui doctor` looks at it."
    used, total = gpu.used_bytes, gpu.total_bytes
    if used is not None and total and used >= FULL * total:
        spill = "Windows uses RAM in its place" if gpu.wsl else "something may be waiting for memory"
        return (
            f"The GPU's memory is full ({format_bytes(used)} of {format_bytes(total)}), and {spill}: "
            "close what else uses it, or start again with a lower train.max_length or micro-batch."
        )
    if gpu.temperature_c is not None and gpu.temperature_c >= HOT_C:
        return f"The GPU is at {gpu.temperature_c:.0f} °C and slows itself down: look at its fans and its dust."
    others = [process for process in gpu.processes or () if process.pid != ours and process.kind != "graphics"]
    if others:
        who = ", ".join(f"{process.name or 'a process'} (pid {process.pid})" for process in others[:3])
        return f"Others compute on this GPU too: {who}."
    if gpu.utilization is not None and gpu.utilization < IDLE:
        load = format_share(gpu.utilization)
        return f"The GPU waits (load {load}): the processor or the disk is busy with something else."
    return "Neither its memory, its heat nor another process on it tells why."
