"""Runs as directories: create, list, find, read, delete; and whether a worker is alive."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.config import first_fault
from engine.errors import FinetuiError, UsageError
from engine.events import EventTail
from engine.paths import RunDir, is_file, runs_dir
from engine.plan import Plan
from engine.state import RunState, Status, fold
from engine.text import clean_line

_FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: l_type, l_whence, (pad) l_start, l_len, l_pid


@dataclass(frozen=True)
class RunInfo:
    """One run as a list shows it. `plan` is None, with a `problem`, if the folder cannot be read."""

    run: RunDir
    plan: Plan | None
    state: RunState
    status: Status
    problem: str = ""

    @property
    def name(self) -> str:
        """The folder's name, safe to show."""
        return clean_line(self.run.name)

    @property
    def next_action(self) -> str:
        """What a person would do next with this run, as a command; empty if nothing is due."""
        return _next_action(self)


def slug(text: str) -> str:
    """A name that is safe as a part of a file name: letters, digits, dot and dash, at most 40 characters."""
    safe = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
    return safe[:40].strip("-.") or "run"


def create(plan: Plan) -> RunDir:
    """Make the run's folder with its plan, whole or not at all."""
    base = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(plan.created_t))}-{slug(plan.slug)}"
    text = plan.model_dump_json(indent=2)
    try:
        runs_dir().mkdir(parents=True, exist_ok=True)
        path = _new_folder(base)
        try:
            _write_new(path / "plan.json", text)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
    except OSError as error:
        raise FinetuiError(
            "The run cannot be written",
            f"{runs_dir()}: {error.strerror or error}",
            ("Free some space or set FINETUI_HOME to a folder that can be written.",),
        ) from error
    return RunDir(path)


def _new_folder(base: str) -> Path:
    for number in range(1, 1000):
        path = runs_dir() / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise UsageError("Too many runs with one name", base)


def _write_new(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def load_plan(run: RunDir) -> Plan:
    """The plan of a run. Raises `UsageError` naming the file if it is missing or damaged."""
    try:
        return Plan.model_validate_json(run.plan.read_bytes())
    except FileNotFoundError:
        raise UsageError("This folder is not a run", f"{run.path} has no plan.json") from None
    except (ValidationError, OSError) as error:
        why = first_fault(error) if isinstance(error, ValidationError) else error.strerror or str(error)
        hint = f"Without its plan a run cannot go on; what it made is still there. Delete it: finetui delete {run.name}"
        raise UsageError("The run's plan cannot be read", f"{run.plan}: {why}", (hint,)) from error


def lock_holder(run: RunDir) -> int | None:
    """The pid of the worker that holds the run's lock, as the kernel tells it; None if nobody does.

    Asked with F_GETLK: a stored pid lies after a crash and a reboot, and `kill(pid, 0)` lies for a zombie.
    """
    try:
        fd = os.open(run.lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, 0, 0, 0, 0))
    finally:
        os.close(fd)
    kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if kind == fcntl.F_UNLCK else int(pid)


def read(run: RunDir) -> RunInfo:
    """One run, read whole."""
    state = fold(RunState(), EventTail(run.events).poll())
    status = state.status(lock_holder(run) is not None)
    try:
        return RunInfo(run, load_plan(run), state, status)
    except UsageError as error:
        return RunInfo(run, None, state, status, problem=str(error))


def list_runs() -> list[RunInfo]:
    """Every run, newest first."""
    return [read(RunDir(runs_dir() / name)) for name in _names()]


def find(name: str) -> RunDir:
    """The run of that name: a folder, the whole name, or an unambiguous part of it (`last`: the newest).

    Raises `UsageError` saying which runs there are.
    """
    given = Path(name)
    if is_file(given / "plan.json"):
        return RunDir(given.resolve())
    names = _names()
    if name == "last" and names:
        return RunDir(runs_dir() / names[0])
    matches = [known for known in names if known == name] or [known for known in names if name and name in known]
    if len(matches) == 1:
        return RunDir(runs_dir() / matches[0])
    shown = ", ".join(clean_line(known) for known in (matches or names)[:8]) or "none yet"
    if matches:
        raise UsageError(
            f"Several runs match {clean_line(name)!r}",
            shown,
            ("Write more of the name; `last` is the newest.",),
        )
    raise UsageError(f"There is no run {clean_line(name)!r}", f"Runs: {shown}", ("`finetui runs` lists them.",))


def _names() -> list[str]:
    try:
        return sorted((path.name for path in runs_dir().iterdir() if path.is_dir()), reverse=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        hint = "Set FINETUI_HOME to a folder that can be read and written."
        raise UsageError("The runs cannot be read", f"{runs_dir()}: {error.strerror or error}", (hint,)) from error


def delete(run: RunDir) -> None:
    """Remove the run's folder with all that was made in it. Refused while a worker runs on it."""
    pid = lock_holder(run)
    if pid is not None:
        raise UsageError(
            "The run is still running",
            f"{run.name}, process {pid}",
            (f"Stop it first: finetui stop {run.name}",),
        )
    try:
        shutil.rmtree(run.path)
    except OSError as error:
        hint = "Make the folder writable, then delete the run again."
        raise FinetuiError("The run cannot be deleted", f"{run.path}: {error.strerror or error}", (hint,)) from error


def _next_action(info: RunInfo) -> str:
    name = info.run.name
    if info.plan is None:
        return ""
    if info.status in (Status.LOST, Status.STOPPED, Status.FAILED) and info.state.current == "train":
        return f"finetui resume {name}"
    if info.status is Status.QUEUED:
        return f"finetui resume {name}"
    if info.status is Status.RUNNING or not info.run.adapter.is_dir():
        return ""
    if not info.run.ggufs:
        return f"finetui gguf {name}"
    return f"finetui certify {name}" if not info.run.certificate.exists() else f"finetui chat {name}"
