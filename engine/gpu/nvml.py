"""Reading NVML. Each question may be refused alone: laptops, MIG slices, WSL2 and shared memory each refuse some."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from engine.gpu import words
from engine.gpu.processes import listed
from engine.gpu.reading import GpuProcess, GpuReading, GpuStatus
from engine.text import clean_line

RETRY_S = 5.0
"""How often the library is opened anew while a GPU is lost: that takes seconds on some machines."""

LIVE = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetClockInfo",
)
"""Questions about the moment: a GPU that answers none of them is no GPU any more."""


class Reader:
    """Keeps NVML open, and opens it anew when a GPU was lost or the driver was loaded again. One thread at a time."""

    def __init__(self, nvml: Any = None, retry_s: float = RETRY_S) -> None:
        self._nvml = nvml
        self._retry_s = retry_s
        self._open = False
        self._opened_t = float("-inf")
        self._known: dict[str, GpuReading] = {}
        """By UUID, the GPUs that were there, as they named themselves: one that is lost can no more."""

    def read(self) -> GpuStatus:
        """What every GPU says now. Raises nothing: the status says what is wrong."""
        try:
            nvml = self._nvml = self._nvml or _library()
        except ImportError as error:
            return GpuStatus(problem=f"The NVIDIA library cannot be loaded: {clean_line(str(error))}.", broken=True)
        try:
            self._ensure_open(nvml)
            status = self._read_all(nvml)
        except nvml.NVMLError as error:
            self.close()
            gone = tuple(self._gone(nvml, error.value, set()))
            absent = error.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND
            return GpuStatus(problem=words.no_driver(nvml, error), unusable=gone, broken=not absent)
        if status.unusable and time.monotonic() >= self._opened_t + self._retry_s:
            self.close()
        return status

    def close(self) -> None:
        """Let the library go; the next reading opens it again."""
        if self._open:
            self._open = False
            with suppress(self._nvml.NVMLError):  # a driver that is gone cannot be closed either
                self._nvml.nvmlShutdown()

    def _ensure_open(self, nvml: Any) -> None:
        if not self._open:
            nvml.nvmlInit()
            self._open, self._opened_t = True, time.monotonic()

    def _read_all(self, nvml: Any) -> GpuStatus:
        count = int(nvml.nvmlDeviceGetCount())
        shared = _of_the_machine(nvml)
        found: list[GpuReading] = []
        refusal = nvml.NVML_ERROR_NOT_FOUND
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as error:
                refusal = error.value
                continue
            found += _read_card(nvml, handle, index, shared, self._known_at(index))
        usable = [gpu for gpu in found if not gpu.problem]
        self._known |= {gpu.uuid: gpu for gpu in usable if gpu.uuid}
        gone = list(self._gone(nvml, refusal, {gpu.uuid for gpu in found}))
        if len(found) < count and not gone:
            gone = [GpuReading(problem=words.no_gpu(nvml, None, refusal), **shared)]
        return _status(usable, [*(gpu for gpu in found if gpu.problem), *gone], count)

    def _known_at(self, index: int) -> GpuReading:
        """The card that was last seen at this place, to tell who is lost; empty if none was."""
        here = (known for known in self._known.values() if known.index == index and not known.mig)
        return next(here, GpuReading())

    def _gone(self, nvml: Any, code: int, seen: set[str | None]) -> Iterator[GpuReading]:
        for uuid, known in self._known.items():
            if uuid not in seen:
                problem = words.no_gpu(nvml, known.name, code)
                lost = code in (*_final(nvml), nvml.NVML_ERROR_NOT_FOUND)
                yield GpuReading(
                    uuid=uuid, name=known.name, index=known.index, mig=known.mig, problem=problem, lost=lost
                )


def _library() -> Any:
    import pynvml  # here, not above: 40 ms that a start without a GPU screen need not pay

    return pynvml


def _final(nvml: Any) -> tuple[int, ...]:
    """Codes after which a GPU does not come back by itself."""
    return (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)


def _of_the_machine(nvml: Any) -> dict[str, Any]:
    """What is the same for every GPU: the driver, the newest CUDA that it runs, and whether Windows is below."""
    driver = cuda = None
    with suppress(nvml.NVMLError):
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    with suppress(nvml.NVMLError):
        number = int(nvml.nvmlSystemGetCudaDriverVersion_v2())  # 12080 is 12.8
        cuda = f"{number // 1000}.{number % 1000 // 10}"
    return {"driver": driver, "cuda": cuda, "wsl": "microsoft" in platform.release().lower()}


def _status(usable: list[GpuReading], unusable: list[GpuReading], count: int) -> GpuStatus:
    broken = bool(unusable)
    gpus = visible(usable, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if gpus:
        return GpuStatus(gpus=tuple(gpus), unusable=tuple(unusable), broken=broken)
    if usable:
        problem = "CUDA_VISIBLE_DEVICES hides every GPU from this process."
    elif unusable:
        problem = unusable[0].problem
    else:
        problem = "The NVIDIA driver is there, but it sees no GPU." if not count else "No GPU can be read."
    return GpuStatus(unusable=tuple(unusable), problem=problem, broken=broken)


def _read_card(nvml: Any, handle: Any, index: int, shared: dict[str, Any], before: GpuReading) -> Iterator[GpuReading]:
    """The card; in MIG mode its slices instead, for CUDA takes nothing else then."""
    card = _Device(nvml, handle)
    mode = card.ask("nvmlDeviceGetMigMode")
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        yield _read_device(card, index, shared, before)
        return
    slices = list(_slices(card))
    for part in slices:
        yield _read_device(_Device(nvml, part), index, {**shared, "mig": True}, GpuReading())
    if not slices:
        name = _text(card.ask("nvmlDeviceGetName"))
        uuid = _text(card.ask("nvmlDeviceGetUUID"))
        yield GpuReading(uuid=uuid, name=name, index=index, problem=words.no_slice(name), **shared)


def _slices(card: _Device) -> Iterator[Any]:
    for number in range(int(card.ask("nvmlDeviceGetMaxMigDeviceCount") or 0)):
        part = card.ask("nvmlDeviceGetMigDeviceHandleByIndex", number)
        if part is not None:  # the numbers have gaps
            yield part


class _Device:
    """Asks about one device, and remembers what was refused, by which code."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self._handle = nvml, handle
        self.refused: dict[str, int] = {}

    def ask(self, question: str, *arguments: Any) -> Any:
        """The answer; None if the driver refuses."""
        try:
            return getattr(self.nvml, question)(self._handle, *arguments)
        except self.nvml.NVMLError as error:
            self.refused[question] = error.value
            return None

    def fault(self) -> int | None:
        """The code that says that the device is lost; None if it is not.

        A single unknown error is a figure that is not there; a device none of whose figures is there, and not because
        it never had them, is lost.
        """
        nvml, codes = self.nvml, self.refused
        sure = [
            code for code in codes.values() if code in (nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED)
        ]
        if sure:
            return sure[0]
        never = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        live = [codes.get(question) for question in LIVE]
        if None in live:
            return None
        return next((code for code in live if code not in never), None)


def _read_device(device: _Device, index: int, shared: dict[str, Any], before: GpuReading) -> GpuReading:
    nvml = device.nvml
    name, uuid = _text(device.ask("nvmlDeviceGetName")), _text(device.ask("nvmlDeviceGetUUID"))
    rates = device.ask("nvmlDeviceGetUtilizationRates")
    capability = device.ask("nvmlDeviceGetCudaComputeCapability")
    figures = {
        "utilization": _scaled(rates and rates.gpu, 100),
        "memory_utilization": _scaled(rates and rates.memory, 100),
        "temperature_c": device.ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
        "power_w": _scaled(device.ask("nvmlDeviceGetPowerUsage"), 1000),
        "power_limit_w": _scaled(device.ask("nvmlDeviceGetEnforcedPowerLimit"), 1000),
        "fan": _scaled(device.ask("nvmlDeviceGetFanSpeed"), 100),
        "sm_clock_mhz": device.ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": device.ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
        "compute_capability": None if capability is None else tuple(capability),
        "processes": _processes(device, shared["wsl"]),
        **_memory(device, shared["wsl"] or shared.get("mig", False)),
    }
    fault = device.fault()
    if fault is None:
        return GpuReading(uuid=uuid, name=name, index=index, **figures, **shared)
    problem = words.no_gpu(nvml, name or before.name, fault)
    who = {"uuid": uuid or before.uuid, "name": name or before.name, "index": index}
    return GpuReading(**who, problem=problem, lost=fault in _final(nvml), **figures, **shared)


def _memory(device: _Device, inside: bool) -> dict[str, Any]:
    """Bytes of memory, by NVML's second call: the first one counts what the driver reserves as used.

    `inside`: under WSL2 or of a slice, where a refusal does not mean that the memory is the machine's.
    """
    question = "nvmlDeviceGetMemoryInfo"
    told = device.ask(question, device.nvml.nvmlMemory_v2)
    if told is None:
        told = device.ask(question)  # drivers before R510
    if told is not None and int(told.total) > 0:
        device.refused.pop(question, None)
        reserved = getattr(told, "reserved", None)
        sizes = {
            "total_bytes": told.total,
            "used_bytes": told.used,
            "free_bytes": told.free,
            "reserved_bytes": reserved,
        }
        return {name: None if size is None else int(size) for name, size in sizes.items()}
    code = device.refused.get(question, device.nvml.NVML_ERROR_NOT_SUPPORTED)  # some answer with zeros
    return {"unified": code == device.nvml.NVML_ERROR_NOT_SUPPORTED and not inside}


def _processes(device: _Device, wsl: bool) -> tuple[GpuProcess, ...] | None:
    found = listed(_running(device, "Compute"), _running(device, "Graphics"))
    return None if wsl and not found else found  # under WSL2 some drivers name nobody instead of refusing


def _running(device: _Device, kind: str) -> list[Any] | None:
    question = f"nvmlDeviceGet{kind}RunningProcesses"
    found: list[Any] | None = device.ask(question)
    if found is None and device.refused[question] == device.nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
        found = device.ask(f"{question}_v2")  # drivers before R510
    return found


def _text(answer: str | bytes | None) -> str | None:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer


def _scaled(answer: float | None, divisor: int) -> float | None:
    return None if answer is None else answer / divisor


def visible(gpus: list[GpuReading], chosen: str | None) -> list[GpuReading]:
    """The GPUs that CUDA shows to this process: it reads the list up to the first entry that names none."""
    if chosen is None:
        return gpus
    found: list[GpuReading] = []
    for entry in (part.strip() for part in chosen.split(",")):
        if entry.isdecimal() and int(entry) < len(gpus):
            found.append(gpus[int(entry)])
            continue
        named = [gpu for gpu in gpus if entry.startswith(("GPU-", "MIG-")) and (gpu.uuid or "").startswith(entry)]
        if len(named) != 1:
            break
        found.append(named[0])
    return found
