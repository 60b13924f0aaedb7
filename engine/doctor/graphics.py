"""The GPUs: what each is, what is wrong with it, and who else holds its memory."""

from __future__ import annotations

from collections.abc import Iterator

from engine.doctor.diagnosis import Diagnosis
from engine.gpu import GpuReading, GpuStatus, holders, remarks
from engine.units import format_bytes

BF16_FROM = (8, 0)
"""Compute capability from which bfloat16, in which finetui computes, is done in hardware (Ampere)."""

HELD = 0.1
"""Share of a card's memory from which on it is worth a word that others hold it; a desktop takes less."""

CPU = "Until then the demo and small models run on the CPU; others need an NVIDIA GPU and its driver."


def graphics(status: GpuStatus) -> Iterator[Diagnosis]:
    """Each GPU, usable or not; without one, why there is none."""
    if status.silent_s:
        yield Diagnosis("NVIDIA driver", "error", "does not answer", status.problem)
    for gpu in status.gpus:
        yield from _usable(gpu)
    for gpu in status.unusable:
        yield Diagnosis("GPU", "error", gpu.problem, "" if status.gpus else CPU, facts=gpu.model_dump())
    if not (status.silent_s or status.gpus or status.unusable):
        yield Diagnosis("GPU", "error" if status.broken else "warning", status.problem or "none", CPU)


def _usable(gpu: GpuReading) -> Iterator[Diagnosis]:
    parts = [gpu.name or "a GPU that does not tell its name", _memory(gpu)]
    if gpu.compute_capability is not None:
        parts.append("compute capability {}.{}".format(*gpu.compute_capability))
    parts.append(f"driver {gpu.driver or 'n/a'}")
    if gpu.cuda:
        parts.append(f"runs CUDA up to {gpu.cuda}")
    yield Diagnosis("GPU", "ok", ", ".join(parts), facts=gpu.model_dump())
    for remark in remarks(gpu):
        yield Diagnosis("GPU", "ok", remark)
    if gpu.compute_capability is not None and gpu.compute_capability < BF16_FROM:
        slow = "Training works and is slow; cards from the RTX 30 series on have it."
        yield Diagnosis("bfloat16", "warning", f"{gpu.name} has no bfloat16 in hardware", slow)
    yield from _held(gpu)


def _memory(gpu: GpuReading) -> str:
    if gpu.total_bytes is None:
        return "memory n/a"
    return f"{format_bytes(gpu.free_bytes)} of {format_bytes(gpu.total_bytes)} free"


def _held(gpu: GpuReading) -> Iterator[Diagnosis]:
    held = sum(process.used_bytes or 0 for process in gpu.processes or ())
    if gpu.total_bytes and held > HELD * gpu.total_bytes:
        found = f"{format_bytes(held)} held by {len(gpu.processes or ())} processes"
        yield Diagnosis("GPU memory", "warning", found, "; ".join(holders(gpu, most=3)))
