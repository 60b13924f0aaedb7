"""The only threads: they read what changes on the machine and post it as small messages.

Each feed is started by a screen and stops with it. Imports of the engine stand inside the threads, so that they
cost nothing before the first paint.
"""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from tui.messages import GpuChanged, Problem, RunChanged, RunGone, RunsChanged, Usage

if TYPE_CHECKING:
    from pathlib import Path

    from textual.message_pump import MessagePump

    from engine.events import EventTail
    from engine.gpu import GpuStatus
    from engine.paths import RunDir
    from engine.runs import RunInfo
    from engine.state import RunState

KEPT_STEPS = 2_000
"""A list shows a run's newest figures and a line 40 cells wide; more steps than this are only memory."""


class Feed(ABC):
    """A thread that looks every `interval_s` seconds until it is stopped, and posts to `target`."""

    interval_s = 1.0

    def __init__(self, target: MessagePump) -> None:
        self.target = target
        self._stop = threading.Event()
        # A daemon: a driver call that never returns must not keep the terminal from being given back.
        self._thread = threading.Thread(target=self._follow, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Begin to look, at once."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; returns at once."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """True once `stop` was called."""
        return self._stop.is_set()

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence shows old figures as new
                self._give_up(error)
            self._stop.wait(self.interval_s)

    def _give_up(self, error: Exception) -> None:
        from engine.errors import FinetuiError
        from engine.text import clean_line

        self.stop()
        detail = clean_line(f"{type(self).__name__}: {type(error).__name__}: {error}", 600)
        hints = ("What is shown stays as it was; go back and open the screen again.",)
        self.target.post_message(Problem(FinetuiError("This machine cannot be read any more", detail, hints)))

    @abstractmethod
    def look(self) -> None:
        """Read once, and post what is new."""


class FolderFeed(Feed):
    """Tells, once, when a run's folder is deleted."""

    def __init__(self, target: MessagePump, run: RunDir) -> None:
        super().__init__(target)
        self._run = run

    def look(self) -> None:
        """Post that the run is gone if it is, and look no more."""
        if not self._run.path.is_dir():
            self.stop()
            self.target.post_message(RunGone(self._run))


class RunFeed(FolderFeed):
    """Follows one run: its events by offset, and its lock."""

    interval_s = 0.25

    def __init__(self, target: MessagePump, run: RunDir) -> None:
        super().__init__(target, run)
        self._tail: EventTail | None = None
        self._state: RunState | None = None
        self._status: str | None = None

    def look(self) -> None:
        """Post the run if an event was added, or the worker came or went."""
        from engine.events import EventTail
        from engine.runs import lock_holder
        from engine.state import RunState, fold

        super().look()
        if self.stopped:
            return
        if self._tail is None or self._state is None:
            self._tail, self._state = EventTail(self._run.events), RunState()
        # The lock first: a worker that ends between the two readings has then told how it ended.
        locked = lock_holder(self._run) is not None
        events = self._tail.poll()
        if self._tail.restarted:
            self._state = RunState()
        if events:
            self._state = fold(self._state, events)
        status = self._state.status(locked)
        if events or status != self._status:
            self._status = status
            self.target.post_message(RunChanged(self._run, self._state, status))


class GpuFeed(Feed):
    """Reads the GPU once a second, and the worker's own use of the machine when a run is given.

    The driver may hang: `gpu.read` comes back in seconds all the same, and says so.
    """

    def __init__(self, target: MessagePump, run: RunDir | None = None) -> None:
        super().__init__(target)
        self._run = run
        self._cpu: tuple[int, float, float] | None = None

    def look(self) -> None:
        """Post a reading; while the driver hangs, the last one, which says so."""
        from engine import gpu
        from engine.runs import lock_holder

        status = gpu.read()
        worker = lock_holder(self._run) if self._run is not None else None
        if worker is None:
            self.target.post_message(GpuChanged(status))
        else:
            self.target.post_message(GpuChanged(status, self._usage(worker), _ours(status, worker)))

    def _usage(self, pid: int) -> Usage | None:
        import psutil

        cores = psutil.cpu_count() or 1
        try:
            process = psutil.Process(pid)
            used = sum(process.cpu_times()[:2])
            rss = process.memory_info().rss
        except psutil.Error:
            return None  # it ended between the two questions, or is not ours to ask about
        share = self._share(pid, used) / cores
        return Usage(share, cores, rss, psutil.virtual_memory().total)

    def _share(self, pid: int, used: float) -> float:
        now = time.monotonic()
        before, self._cpu = self._cpu, (pid, used, now)
        if before is None or before[0] != pid or now <= before[2]:
            return 0.0
        return max(0.0, (used - before[1]) / (now - before[2]))


def _ours(status: GpuStatus, worker: int) -> frozenset[int]:
    """The processes on the GPUs that belong to the worker: it leads the session of all that it starts."""
    return frozenset(
        process.pid for seen in status.gpus for process in seen.processes or () if _session(process.pid) == worker
    )


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None  # it has ended


class RunsFeed(Feed):
    """Lists the runs; a run whose events have not grown is not read again."""

    def __init__(self, target: MessagePump) -> None:
        super().__init__(target)
        self._known: dict[Path, _Followed] = {}
        self._shown: list[RunInfo] | None = None
        self._posted_t = time.monotonic()

    def look(self) -> None:
        """Post the list if it is not the one that was posted last."""
        from engine.paths import RunDir, runs_dir

        try:
            paths = sorted((path for path in runs_dir().iterdir() if path.is_dir()), reverse=True)
        except FileNotFoundError:
            paths = []
        self._known = {path: self._known.get(path) or _Followed(RunDir(path)) for path in paths}
        infos: list[RunInfo] = []
        for followed in self._known.values():
            if self.stopped:
                return
            infos.append(followed.read())
            if self._shown is None and time.monotonic() - self._posted_t > 0.25:
                self._post(infos, complete=False)
        if infos != self._shown:
            self._shown = infos
            self._post(infos, complete=True)

    def _post(self, infos: list[RunInfo], complete: bool) -> None:
        self._posted_t = time.monotonic()
        self.target.post_message(RunsChanged(tuple(infos), complete))


class _Followed:
    """One run of the list, with how far its events were read."""

    def __init__(self, run: RunDir) -> None:
        from engine.events import EventTail
        from engine.state import RunState

        self._run = run
        self._tail = EventTail(run.events)
        self._state = RunState()
        self._stamp: tuple[int, int] | None = None
        self._info: RunInfo | None = None

    def read(self) -> RunInfo:
        from engine.errors import UsageError
        from engine.runs import RunInfo, load_plan, lock_holder

        locked = lock_holder(self._run) is not None
        changed = self._follow()
        status = self._state.status(locked)
        if self._info is None:
            try:
                self._info = RunInfo(self._run, load_plan(self._run), self._state, status)
            except UsageError as error:
                self._info = RunInfo(self._run, None, self._state, status, problem=str(error))
        elif changed or status != self._info.status:
            self._info = replace(self._info, state=self._state, status=status)
        return self._info

    def _follow(self) -> bool:
        from engine.state import RunState, fold

        try:
            stat = self._run.events.stat()
        except OSError:
            return False
        stamp = (stat.st_mtime_ns, stat.st_size)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        events = self._tail.poll()
        before = RunState() if self._tail.restarted else self._state
        self._state = _thinned(fold(before, events))
        return True


def _thinned(state: RunState) -> RunState:
    """Every second one of the older steps, again and again, until few enough are kept; the newest stay whole."""
    steps = state.steps
    while len(steps) > KEPT_STEPS:
        steps = steps[:-200:2] + steps[-200:]
    return state if steps is state.steps else replace(state, steps=steps)
