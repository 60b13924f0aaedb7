"""The values: one GPU's reading, one process that holds its memory, and all GPUs of this machine."""

from __future__ import annotations

from typing import Literal

from engine.config import Frozen
from engine.text import Text
from engine.units import format_bytes


class GpuProcess(Frozen):
    """A process that holds memory of the GPU."""

    pid: int
    name: Text | None = None
    """What a person knows it by; None if it may not be seen."""
    used_bytes: int | None = None
    kind: Literal["compute", "graphics", "both"] = "compute"


class GpuReading(Frozen):
    """What one GPU, or one MIG slice of it, says of itself now."""

    uuid: Text | None = None
    """Of a slice its own, `MIG-…`. What CUDA_VISIBLE_DEVICES takes; an index may mean another GPU tomorrow."""
    name: Text | None = None
    index: int | None = None
    """The driver's number for it, in the order of the PCI bus, as nvidia-smi counts; of a slice its card's."""
    total_bytes: int | None = None
    used_bytes: int | None = None
    """Without what the driver reserves for itself, where it tells that apart (R510 and newer)."""
    free_bytes: int | None = None
    reserved_bytes: int | None = None
    utilization: float | None = None
    """Share of the last moment (1/6 to 1 s) in which the GPU computed, 0 to 1."""
    memory_utilization: float | None = None
    """Share of that moment in which its memory was read or written, 0 to 1."""
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    fan: float | None = None
    """Share of the fan's top speed, 0 to 1; None for cards without one of their own."""
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    driver: Text | None = None
    cuda: Text | None = None
    """The newest CUDA that the driver can run, like "12.8"."""
    compute_capability: tuple[int, int] | None = None
    processes: tuple[GpuProcess, ...] | None = None
    """Most memory first; None if the driver does not tell, as under WSL2."""
    mig: bool = False
    """A slice of a card in MIG mode."""
    unified: bool = False
    """It has no memory of its own but shares the machine's."""
    wsl: bool = False
    """Windows drives it; this is Linux inside of it."""
    problem: Text = ""
    """A sentence if it cannot be used: it is lost, needs a reset, or is in MIG mode without a slice."""
    lost: bool = False
    """True if the driver says in so many words that only a reset or a reboot brings it back."""


class GpuStatus(Frozen):
    """The GPUs that this process may use; if there are none, `problem` is a sentence that says why."""

    gpus: tuple[GpuReading, ...] = ()
    unusable: tuple[GpuReading, ...] = ()
    """GPUs that are, or were until a moment ago, there and cannot be used; each with its problem."""
    problem: Text = ""
    broken: bool = False
    """Something is there and does not work, so there is something to mend: not just a machine without a GPU."""
    silent_s: float = 0.0
    """Seconds since the driver was asked and has not answered; what is told here is from before. 0: it answers."""

    def find(self, uuid: str = "") -> GpuReading | None:
        """The GPU of that UUID, usable or not; else the first usable one; None without any."""
        everything = (*self.gpus, *self.unusable)
        named = next((gpu for gpu in everything if uuid and gpu.uuid == uuid), None)
        return named or next(iter(self.gpus or self.unusable), None)


def pretend(memory_bytes: int) -> GpuReading:
    """A GPU with so much free memory, for planning on a machine that does not have it."""
    name = f"a GPU with {format_bytes(memory_bytes)}"
    return GpuReading(uuid="", name=name, total_bytes=memory_bytes, used_bytes=0, free_bytes=memory_bytes)
