"""One NVML reading as a value. A figure that the driver does not give is None, never 0."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from engine.config import Frozen
from engine.text import Text, clean_line
from engine.units import format_bytes

T = TypeVar("T")


class GpuReading(Frozen):
    """What one GPU says of itself now."""

    uuid: Text | None = None
    name: Text | None = None
    total_bytes: int | None = None
    used_bytes: int | None = None
    free_bytes: int | None = None
    utilization: float | None = None
    """Share of the last moment in which the GPU computed, 0 to 1."""
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    fan: float | None = None
    """Share of the fan's top speed, 0 to 1; None for cards without one of their own."""
    driver: Text | None = None


class GpuStatus(Frozen):
    """The GPUs that this process may use; if there are none, `problem` is a sentence that says why."""

    gpus: tuple[GpuReading, ...] = ()
    problem: Text = ""


def pretend(memory_bytes: int) -> GpuReading:
    """A GPU with so much free memory, for planning on a machine that does not have it."""
    name = f"a GPU with {format_bytes(memory_bytes)}"
    return GpuReading(uuid="", name=name, total_bytes=memory_bytes, used_bytes=0, free_bytes=memory_bytes)


def read() -> GpuStatus:
    """Ask the driver once. Never raises for a missing or broken driver: the status says what is wrong."""
    try:
        import pynvml  # here, not above: 40 ms that a start without a GPU screen need not pay
    except ImportError as error:
        return GpuStatus(problem=f"The NVIDIA library cannot be loaded: {clean_line(str(error))}.")
    return read_from(pynvml)


def read_from(nvml: Any) -> GpuStatus:
    """`read()` through the given NVML binding."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return GpuStatus(problem=_problem(nvml, error))
    try:
        return _read_all(nvml)
    finally:
        _ask(nvml, nvml.nvmlShutdown)


def _read_all(nvml: Any) -> GpuStatus:
    try:
        count = int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError as error:
        return GpuStatus(problem=_problem(nvml, error))
    driver = _words(_ask(nvml, nvml.nvmlSystemGetDriverVersion))
    found = [_read_one(nvml, index, driver) for index in range(count)]
    if not found:
        return GpuStatus(problem="The NVIDIA driver is there, but it sees no GPU.")
    gpus = _visible([gpu for gpu in found if gpu is not None], os.environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus:
        return GpuStatus(gpus=tuple(gpus))
    if not any(found):
        return GpuStatus(problem="The NVIDIA driver names a GPU but does not let it be read.")
    return GpuStatus(problem="CUDA_VISIBLE_DEVICES hides every GPU from this process.")


def _read_one(nvml: Any, index: int, driver: str | None) -> GpuReading | None:
    handle = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
    if handle is None:
        return None
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
    celsius = _ask(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
    return GpuReading(
        uuid=_words(_ask(nvml, nvml.nvmlDeviceGetUUID, handle)),
        name=_words(_ask(nvml, nvml.nvmlDeviceGetName, handle)),
        total_bytes=None if memory is None else int(memory.total),
        used_bytes=None if memory is None else int(memory.used),
        free_bytes=None if memory is None else int(memory.free),
        utilization=None if rates is None else float(rates.gpu) / 100,
        temperature_c=None if celsius is None else float(celsius),
        power_w=_scaled(_ask(nvml, nvml.nvmlDeviceGetPowerUsage, handle), 1000),
        power_limit_w=_scaled(_ask(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle), 1000),
        fan=_scaled(_ask(nvml, nvml.nvmlDeviceGetFanSpeed, handle), 100),
        driver=driver,
    )


def _ask(nvml: Any, question: Callable[..., T], *arguments: Any) -> T | None:
    """The answer, or None: laptops, MIG slices and shared-memory GPUs each refuse some of the questions."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _words(answer: str | bytes | None) -> str | None:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _scaled(answer: float | None, divisor: int) -> float | None:
    return None if answer is None else answer / divisor


def _visible(gpus: list[GpuReading], chosen: str | None) -> list[GpuReading]:
    """The GPUs that CUDA shows to this process: it reads the list up to the first entry that names none."""
    if chosen is None:
        return gpus
    visible: list[GpuReading] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.isdecimal() and int(entry) < len(gpus):
            visible.append(gpus[int(entry)])
            continue
        named = [gpu for gpu in gpus if entry.startswith("GPU-") and gpu.uuid and gpu.uuid.startswith(entry)]
        if len(named) != 1:
            break
        visible.append(named[0])
    return visible


def _problem(nvml: Any, error: Any) -> str:
    sentences = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "There is no NVIDIA driver on this machine.",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded; reboot, or load it "
        "with: sudo modprobe nvidia.",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while it was running: reboot.",
        nvml.NVML_ERROR_NO_PERMISSION: "This user may not use the GPU (see the group of /dev/nvidia0).",
    }
    return sentences.get(error.value, f"The NVIDIA driver does not answer: {clean_line(str(error))}.")
