"""Start a worker on a run, ask it to stop, kill it. The worker outlives whoever started it."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from engine.config import StageName, StageOptions
from engine.errors import FinetuiError, FitError, RunError, UsageError
from engine.events import EventTail, EventWriter, Started, Stopped
from engine.paths import RunDir
from engine.runs import lock_holder
from engine.state import RunState, fold
from engine.text import clean
from engine.units import MIB, format_bytes

START_TIMEOUT_S = 60.0
"""How long a worker may take to its first event: importing nothing heavy, this is a second even on a slow disk."""


KILL_TIMEOUT_S = 5.0
"""How long the kernel may take to end a killed worker."""


def start(run: RunDir, stages: Sequence[StageName], options: StageOptions | None = None) -> None:
    """Start a worker on the stages, in order, and return once it holds the lock and has said so.

    Its own session (so that a closing terminal does not reach it), no standard input, its output in
    `worker.log`. `-P` keeps a folder `engine/` in the user's working directory from being taken for ours.
    Raises `UsageError` if a worker runs already, `RunError` if it ends before its first event.
    """
    _require_alone(run)
    _require_room(run)
    tail = EventTail(run.events)
    tail.poll()  # what earlier workers told
    chosen = options or StageOptions()
    command = [sys.executable, "-P", "-m", "engine.worker", str(run.path), ",".join(stages)]
    command += ["--options", chosen.model_dump_json(exclude_defaults=True)]
    try:
        with run.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=run.path,
                start_new_session=True,
            )
    except OSError as error:
        hint = f"The run's folder must be writable: {run.path}"
        raise FinetuiError("The worker cannot be started", f"{run.log}: {error.strerror or error}", (hint,)) from error
    _await_first_event(run, process, tail)


def _require_alone(run: RunDir) -> None:
    holder = lock_holder(run)
    if holder is not None:
        raise UsageError(
            "A worker is already running on this run",
            f"{run.name}, process {holder}",
            (f"Follow it: finetui tail {run.name}", f"Stop it: finetui stop {run.name}"),
        )


def _require_room(run: RunDir) -> None:
    free = shutil.disk_usage(run.path).free
    if free < MIB:
        hint = "Free some space, then start it again; what the run holds is whole."
        raise FitError("The disk is full", f"{format_bytes(free)} is free at {run.path}", (hint,))


def _await_first_event(run: RunDir, process: subprocess.Popen[bytes], tail: EventTail) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None  # asked before the events, so that its last words are not missed
        if any(isinstance(event, Started) and event.pid == process.pid for event in tail.poll()):
            return
        if ended:
            _require_alone(run)  # another start at the same moment was faster
            raise RunError("The worker ended before it could begin", log_tail(run), (f"The whole output: {run.log}",))
        time.sleep(0.05)
    raise RunError("The worker does not answer", f"no event within {START_TIMEOUT_S:.0f} s", (f"See {run.log}",))


def request_stop(run: RunDir) -> bool:
    """Ask the worker to stop at its next safe point. False if no worker is running."""
    if lock_holder(run) is None:
        return False
    run.stop.touch()
    return True


def kill(run: RunDir) -> bool:
    """End the worker at once, and all that it started. What it had not saved is lost. False if none is running."""
    pid = lock_holder(run)
    if pid is None:
        return False
    try:
        # The worker leads its own session, so its group is itself and its children, never ours.
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    _note_end(run)
    return True


def _note_end(run: RunDir) -> None:
    """Tell in the events that the worker was ended on purpose, as their one writer: with its lock held."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while lock_holder(run) is not None:
        if time.monotonic() > deadline:
            return  # somebody has started the next worker already
        time.sleep(0.02)
    fd = os.open(run.lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        current = fold(RunState(), EventTail(run.events).poll()).current
        if current is not None:
            writer = EventWriter(run.events)
            writer.write(Stopped(stage=current, reason="ended at once; what was not saved is lost"))
            writer.close()
    except BlockingIOError:
        return
    finally:
        os.close(fd)


def log_tail(run: RunDir, lines: int = 15) -> str:
    """The end of the worker's own output, cleaned; empty if there is none."""
    try:
        with run.log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 16_384))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return clean("\n".join(text.splitlines()[-lines:]))
