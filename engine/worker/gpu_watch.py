"""Readings of the planned GPU while a stage runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine import gpu
from engine.events import Gpu
from engine.worker.context import Context

INTERVAL_S = 2.0
"""The driver averages power over a second; a screen needs no more."""

PATIENCE_S = 1.0
"""How long the end of a stage waits for a reading that hangs."""


@contextmanager
def watching(context: Context) -> Iterator[None]:
    """Tell a reading every two seconds as long as the block runs; nothing on the CPU."""
    chosen = context.plan.gpu
    if context.plan.device != "cuda" or chosen is None:
        yield
        return
    ended = threading.Event()
    # A daemon: a driver call that hangs must not keep the worker from ending.
    thread = threading.Thread(target=_watch, args=(context, chosen.uuid, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE_S)


def _watch(context: Context, uuid: str, ended: threading.Event) -> None:
    while True:
        reading = next((seen for seen in gpu.read().gpus if seen.uuid == uuid), None)
        if ended.is_set():
            return
        if reading is not None:
            context.emit(as_event(reading))
        if ended.wait(INTERVAL_S):
            return


def as_event(reading: gpu.GpuReading) -> Gpu:
    """The reading as an event."""
    return Gpu(
        name=reading.name or "",
        memory_used_bytes=reading.used_bytes,
        memory_total_bytes=reading.total_bytes,
        utilization=reading.utilization,
        temperature_c=reading.temperature_c,
        power_w=reading.power_w,
        power_limit_w=reading.power_limit_w,
    )
