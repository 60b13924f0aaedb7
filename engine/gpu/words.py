"""What NVML's errors mean, in sentences that say what to do; and what is special about a GPU."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from engine.gpu.reading import GpuReading
from engine.text import clean_line
from engine.units import format_bytes

RESTART = "reboot; where the driver was loaded anew already, start finetui again"


def no_driver(nvml: Any, error: Any) -> str:
    """Why the library or the driver as a whole does not answer."""
    sentences = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "There is no NVIDIA driver on this machine.",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "The NVIDIA driver is installed but not loaded; reboot, or load it "
        "with: sudo modprobe nvidia.",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while it was running: "
        f"{RESTART}. A run that trains already is not touched by this.",
        nvml.NVML_ERROR_NO_PERMISSION: "This user may not use the GPU: join the group that `ls -l /dev/nvidia0` shows.",
        nvml.NVML_ERROR_GPU_IS_LOST: "The NVIDIA driver has lost its GPU: reboot. If it happens again, look at its "
        "power supply and cooling.",
    }
    return sentences.get(error.value, f"The NVIDIA driver does not answer: {clean_line(str(error))}.")


def no_gpu(nvml: Any, name: str | None, code: int) -> str:
    """Why one GPU cannot be used any more."""
    who = name or "A GPU"
    sentences = {
        nvml.NVML_ERROR_GPU_IS_LOST: f"{who} is lost: it has fallen off the bus. Reboot; if it happens again, look at "
        "its power supply and cooling.",
        nvml.NVML_ERROR_RESET_REQUIRED: f"{who} must be reset after a fault: end what uses it, then "
        "sudo nvidia-smi --gpu-reset, or reboot.",
        nvml.NVML_ERROR_NO_PERMISSION: f"This user may not use {who}: join the group that `ls -l /dev/nvidia0` shows.",
        nvml.NVML_ERROR_NOT_FOUND: f"{who} is gone: the driver does not list it any more.",
    }
    return sentences.get(code, f"{who} does not answer: {clean_line(str(nvml.NVMLError(code)))}.")


def no_slice(name: str | None) -> str:
    """Why a card in MIG mode cannot be used as a whole."""
    return (
        f"{name or 'A GPU'} is in MIG mode and has no slice: make one (sudo nvidia-smi mig -cgi 0 -C), "
        "or turn MIG off (sudo nvidia-smi -mig 0)."
    )


def remarks(gpu: GpuReading) -> Iterator[str]:
    """What is special here, so that nobody wonders about figures that are not there."""
    if gpu.mig:
        yield "A MIG slice: load, power and heat are told for the whole card only."
    if gpu.unified:
        yield "It shares the machine's memory; the driver does not tell how much of it."
    if gpu.wsl:
        missing = [word for word, told in (("load", gpu.utilization), ("processes", gpu.processes)) if told is None]
        silent = f"{' and '.join(missing)} are not told; " if missing else ""
        yield f"WSL2: {silent}Windows uses this memory too."
        yield "When it is full, Windows may use RAM in its place, unsaid: then steps take ten times as long."
    plain = not (gpu.mig or gpu.unified or gpu.wsl or gpu.problem)
    if plain and gpu.temperature_c is not None and gpu.power_limit_w is None and gpu.fan is None:
        yield "No power limit and no fan are told: usual on laptops."


def holders(gpu: GpuReading, ours: Collection[int] = (), most: int = 5) -> Iterator[str]:
    """The processes of others that hold memory of this GPU, with what to do about each: most memory first."""
    for process in [process for process in gpu.processes or () if process.pid not in ours][:most]:
        held = f" holds {format_bytes(process.used_bytes)}" if process.used_bytes is not None else ""
        name = process.name or "a process of another user or container"
        drawing = process.kind == "graphics"
        way = "it draws on the screen, so close windows or log out" if drawing else f"close it, or `kill {process.pid}`"
        yield f"{name}, pid {process.pid}{held}: {way}"
