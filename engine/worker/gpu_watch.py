"""Readings of the planned GPU while a stage runs, and what goes wrong with it: lost, silent, or suddenly slow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine import gpu
from engine.errors import ExitCode
from engine.events import Checkpoint, Event, EventTail, Failed, Gpu, Step
from engine.gpu import GpuReading, GpuStatus
from engine.units import format_duration
from engine.worker.context import Context
from engine.worker.pace import Pace, cause

INTERVAL_S = 2.0
"""The driver averages power over a second; a screen needs no more."""

PATIENCE_S = 1.0
"""How long the end of a stage waits for a reading that hangs."""

LOST_S = 90.0
"""How long the stage may be without a word after its GPU is lost. CUDA tells a loss as an error, mostly; where it
waits for the GPU for ever instead, only this ends the run."""

SILENT_S = 30.0
"""From here on it is told that the driver does not answer."""


@contextmanager
def watching(context: Context) -> Iterator[None]:
    """Tell a reading every two seconds as long as the block runs; nothing on the CPU."""
    chosen = context.plan.gpu
    if context.plan.device != "cuda" or chosen is None:
        yield
        return
    ended = threading.Event()
    watch = Watch(context, chosen.uuid)
    # A daemon: a driver call that hangs must not keep the worker from ending.
    thread = threading.Thread(target=watch.follow, args=(ended,), name="gpu watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(PATIENCE_S)


class Watch:
    """Follows one GPU, and the steps that the stage tells meanwhile."""

    def __init__(self, context: Context, uuid: str) -> None:
        self._context, self._uuid = context, uuid
        self._tail = EventTail(context.run.events)
        self._pace = Pace()
        self._step = 0
        saved = [event.step for event in self._tail.poll() if isinstance(event, Checkpoint)]
        self._checkpoint = saved[-1] if saved else None
        self._word_t = time.monotonic()
        """When the stage itself said something."""
        self._trouble = ""
        """What is wrong with the GPU, as it was told; told once."""

    def follow(self, ended: threading.Event) -> None:
        """Look until it has ended, or the GPU is lost and the stage with it."""
        while not ended.is_set():
            status = gpu.read()
            if ended.is_set():
                return
            self.look(status)
            ended.wait(INTERVAL_S)

    def look(self, status: GpuStatus) -> None:
        """One reading, with what follows from it."""
        fresh = None if status.silent_s else next((seen for seen in status.gpus if seen.uuid == self._uuid), None)
        if fresh is not None:
            self._context.emit(as_event(fresh))
        for event in self._tail.poll():
            self._heed(event, fresh)
        self._tell(self._wrong(status, fresh))
        lost = next((seen for seen in status.unusable if seen.uuid == self._uuid and seen.lost), None)
        if lost is not None and time.monotonic() - self._word_t > LOST_S:
            self._end(lost)

    def _heed(self, event: Event, now: GpuReading | None) -> None:
        if event.kind in ("gpu", "finding"):
            return  # our own words
        self._word_t = time.monotonic()
        if isinstance(event, Checkpoint):
            self._checkpoint = event.step
        if not isinstance(event, Step):
            return
        self._step = event.step
        factor = self._pace.follow(event)
        if factor is not None:
            title = f"Step {event.step}: training has become {factor:.0f} times slower"
            self._context.finding("warning", title, cause(now, os.getpid()))

    def _wrong(self, status: GpuStatus, fresh: GpuReading | None) -> str:
        if fresh is not None or 0 < status.silent_s < SILENT_S:
            return ""
        if status.silent_s:
            return "The NVIDIA driver has stopped answering. Training may go on; its GPU cannot be watched."
        gone = next((seen.problem for seen in status.unusable if seen.uuid == self._uuid), "")
        return gone or status.problem or "The GPU of this run is not among those that the driver lists."

    def _tell(self, trouble: str) -> None:
        if trouble and not self._trouble:
            self._context.finding("warning", "The GPU cannot be read any more", f"{trouble} {self._kept()}")
        elif self._trouble and not trouble:
            self._context.finding("ok", "The GPU can be read again", "")
        self._trouble = trouble

    def _kept(self) -> str:
        if self._checkpoint is None:
            return "Nothing was saved yet." if self._step else ""
        return f"Saved up to step {self._checkpoint}."

    def _end(self, lost: GpuReading) -> None:
        """Say that the run has failed, and end this process: the stage waits for a GPU that will not answer."""
        waited = format_duration(time.monotonic() - self._word_t)
        hints = ["Reboot, then look at the GPU: finetui doctor"]
        if self._checkpoint is not None:
            hints.append(f"Go on from step {self._checkpoint}: finetui resume {self._context.run.name}")
        detail = f"{lost.problem} The stage has not said a word for {waited}. {self._kept()}".strip()
        failed = Failed(
            stage=self._context.stage,
            title="The GPU is lost",
            detail=detail,
            hints=tuple(hints),
            exit_code=ExitCode.RUN,
        )
        self._context.emit(failed)
        os._exit(ExitCode.RUN)


def as_event(reading: GpuReading) -> Gpu:
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
