"""What each stage is handed: the run, its plan, and the way to tell what happens."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine.config import StageName, StageOptions
from engine.events import EventWriter, Finding, Known, Level, Output, Phase, Progress
from engine.paths import RunDir, partial
from engine.plan import Plan

PROGRESS_INTERVAL_S = 0.25
"""A screen redraws at 4 Hz; more progress events than that are only bytes."""


class StopRequested(Exception):
    """Raised at a safe point after somebody asked the stage to stop; `step`: what is saved reaches this far."""

    def __init__(self, reason: str = "", step: int | None = None) -> None:
        super().__init__(reason)
        self.step = step


@dataclass
class Signal:
    """Whether a signal asked this worker to stop: one for all of its stages."""

    came: bool = False


@dataclass
class Context:
    """One stage's view of its run."""

    run: RunDir
    plan: Plan
    events: EventWriter
    options: StageOptions
    stage: StageName
    signal: Signal = field(default_factory=Signal)
    """Set by a signal handler: stop as if the stop file were there."""
    _last_progress: tuple[str, float] = field(default=("", 0.0))

    def emit(self, event: Known) -> None:
        """Append an event."""
        self.events.write(event)

    def phase(self, text: str) -> None:
        """Say what comes now, in words."""
        self.emit(Phase(stage=self.stage, text=text))

    def finding(self, level: Level, title: str, detail: str = "") -> None:
        """Tell the user something that they should know."""
        self.emit(Finding(level=level, title=title, detail=detail))

    def progress(self, done: float, total: float, unit: str = "", label: str = "") -> None:
        """Say how far it is; called as often as convenient, written at most four times a second."""
        now = time.monotonic()
        last_label, last_time = self._last_progress
        if label == last_label and done < total and now - last_time < PROGRESS_INTERVAL_S:
            return
        self._last_progress = (label, now)
        self.emit(Progress(stage=self.stage, done=done, total=total, unit=unit, label=label))

    def stop_requested(self) -> bool:
        """True once the stop file exists or a signal came."""
        return self.signal.came or self.run.stop.exists()

    def check_stop(self) -> None:
        """Raise `StopRequested` if a stop was asked for; called at safe points."""
        if self.stop_requested():
            raise StopRequested

    @contextmanager
    def writing(self, final: Path) -> Iterator[Path]:
        """A path to write a file or folder to, renamed to `final` (and announced) only if all went well.

        On any exception the partial output is removed and what stood under `final` stays.
        """
        temporary = partial(final)
        _remove(temporary)
        try:
            yield temporary
            sync(temporary)
        except BaseException:
            _remove(temporary)
            raise
        replaced = final.with_name(final.name + ".replaced")
        _remove(replaced)
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        _remove(replaced)
        self.emit(Output(stage=self.stage, path=final.name, size_bytes=size(final)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def sync(path: Path) -> None:
    """Push a file, or every file of a folder, and the names of them, down to the disk."""
    for file in [path] if path.is_file() else [*path.rglob("*"), path]:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
