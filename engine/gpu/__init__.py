"""What the NVIDIA driver says of the GPUs, as values. A figure that it does not give is None, never 0."""

from __future__ import annotations

from typing import Any

from engine.gpu.nvml import Reader
from engine.gpu.patience import Patient
from engine.gpu.reading import GpuProcess, GpuReading, GpuStatus, pretend
from engine.gpu.words import holders, remarks

__all__ = [
    "GpuProcess",
    "GpuReading",
    "GpuStatus",
    "Reader",
    "holders",
    "pretend",
    "read",
    "read_from",
    "remarks",
]

_PATIENT = Patient(Reader().read)
"""One for the process: it keeps the library open, finds again what came back, and reads at most twice a second."""


def read() -> GpuStatus:
    """What the GPUs say now. Never raises for a missing, broken or hanging driver: the status says what is wrong.

    From any thread but the app's own: it may take seconds, whatever the driver does no more than `patience.FIRST_S`.
    """
    return _PATIENT.read()


def read_from(nvml: Any) -> GpuStatus:
    """One reading through the given NVML binding, which is let go afterwards."""
    reader = Reader(nvml)
    try:
        return reader.read()
    finally:
        reader.close()
