"""Asking a driver that may hang: whoever asks gets an answer in time, if need be "it has not answered for 12 s"."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from engine.gpu.reading import GpuStatus

INTERVAL_S = 0.5
"""Least time between two readings: the driver's own averages are no finer, and each reading takes its lock."""

FIRST_S = 15.0
"""How long the first answer may take: without persistence mode the driver wakes each GPU for it, seconds apiece."""

LATER_S = 3.0
"""How long each later one may take."""


class Patient:
    """Asks through a thread, one question at a time. From any thread, and from several at once."""

    def __init__(
        self,
        read: Callable[[], GpuStatus],
        first_s: float = FIRST_S,
        later_s: float = LATER_S,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._read, self._first_s, self._later_s, self._interval_s = read, first_s, later_s, interval_s
        self._turn = threading.Lock()
        """Held from a question to its answer, however long that takes."""
        self._last: GpuStatus | None = None
        self._asked_t = self._answered_t = float("-inf")

    def read(self) -> GpuStatus:
        """A new reading; while the driver hangs the last one, with `silent_s`."""
        deadline = time.monotonic() + (self._first_s if self._last is None else self._later_s)
        if not self._turn.acquire(timeout=deadline - time.monotonic()):
            return self._silent()
        answer: Future[GpuStatus] = Future()
        self._asked_t = time.monotonic()
        # A daemon: a driver call that never returns must not keep the process from ending.
        threading.Thread(target=self._ask, args=(answer,), name="nvml", daemon=True).start()
        try:
            return answer.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            return self._silent()

    def _ask(self, answer: Future[GpuStatus]) -> None:
        try:
            time.sleep(max(0.0, self._answered_t + self._interval_s - time.monotonic()))
            self._last = status = self._read()
            answer.set_result(status)
        except Exception as error:  # noqa: BLE001 - it is raised where the question came from
            answer.set_exception(error)
        finally:
            self._answered_t = time.monotonic()
            self._turn.release()

    def _silent(self) -> GpuStatus:
        silent_s = time.monotonic() - self._asked_t
        words = f"The NVIDIA driver has not answered for {silent_s:.0f} s. If it stays so: reboot."
        last = self._last or GpuStatus()
        return last.model_copy(update={"problem": words, "broken": True, "silent_s": silent_s})
