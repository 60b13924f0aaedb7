"""The processes that hold a GPU's memory, by names that a person knows them by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

from engine.gpu.reading import GpuProcess
from engine.text import clean_line


def listed(compute: Iterable[Any] | None, graphics: Iterable[Any] | None) -> tuple[GpuProcess, ...] | None:
    """NVML's two lists as one, most memory first; None if it gave neither.

    A process that both computes and draws is in both, each time with all of its memory.
    """
    if compute is None and graphics is None:
        return None
    computing, drawing = _memory_by_pid(compute or ()), _memory_by_pid(graphics or ())
    found = []
    for pid in {**computing, **drawing}:
        told = [used for used in (computing.get(pid), drawing.get(pid)) if used is not None]
        kind = "both" if pid in computing and pid in drawing else "compute" if pid in computing else "graphics"
        found.append(
            GpuProcess.model_validate(
                {"pid": pid, "name": name_of(pid), "used_bytes": max(told, default=None), "kind": kind}
            )
        )
    return tuple(sorted(found, key=lambda process: (-(process.used_bytes or 0), process.pid)))


def _memory_by_pid(processes: Iterable[Any]) -> dict[int, int | None]:
    return {int(process.pid): process.usedGpuMemory for process in processes}


def name_of(pid: int) -> str | None:
    """The process's name; of an interpreter, what it runs; None if it has ended or may not be seen."""
    import psutil

    try:
        process = psutil.Process(pid)
        name = process.name()
        script = _script(process.cmdline()) if name.startswith("python") else ""
    except psutil.Error:
        return None
    return clean_line(f"{name} {script}".strip(), 60)


def _script(command: list[str]) -> str:
    """What an interpreter runs: a module or a file, and no further argument, for some are secrets."""
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "")
        if word == "-c":
            return ""
        if not word.startswith("-"):
            return PurePath(word).name
    return ""
