"""A machine's NVML out of a file: stands where pynvml's functions stand, with pynvml's own error classes and codes.

A file in `tests/data/nvml` lists moments. Each moment answers, by pynvml's names, the questions to the driver and to
each device; `{"error": "NOT_SUPPORTED"}` is raised, what is not listed is not supported. A test says when the next
moment comes.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

FOLDER = Path(__file__).parent / "data" / "nvml"


class Machine:
    """Plays one file. `refuse[question] = code` makes one question fail on top of that."""

    def __init__(self, name: str) -> None:
        self._told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        self._moment = 0
        self.release = self._told.get("release", "6.8.0-88-generic")
        self.refuse: dict[str, int] = {}
        self.opened = self.closed = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name == "nvmlMemory_v2":
            return getattr(pynvml, name)
        return lambda *arguments: self._answer(name, *arguments)

    @property
    def now(self) -> dict[str, Any]:
        """What the driver says at this moment."""
        moments = self._told["moments"]
        return dict(moments[min(self._moment, len(moments) - 1)])

    def pass_on(self) -> None:
        """The next moment comes."""
        self._moment += 1

    def _answer(self, question: str, *arguments: Any) -> Any:
        if question in self.refuse:
            raise pynvml.NVMLError(self.refuse[question])
        if question == "nvmlInit":
            _played(self.now.get(question))
            self.opened += 1
            return None
        if question == "nvmlShutdown":
            self.closed += 1
            return None
        if self.opened == self.closed:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if question == "nvmlDeviceGetCount":
            return _played(self.now.get(question, len(self.now.get("devices", []))))
        if question == "nvmlDeviceGetHandleByIndex":
            return _played(self.now["devices"][arguments[0]], raw=True)
        if question.startswith("nvmlSystem"):
            return _played(self.now[question])
        return self._ask(question, *arguments)

    def _ask(self, question: str, device: dict[str, Any], *arguments: Any) -> Any:
        if question == "nvmlDeviceGetMigDeviceHandleByIndex":
            return _played(device["slices"].get(str(arguments[0]), {"error": "NOT_FOUND"}), raw=True)
        if question == "nvmlDeviceGetMemoryInfo" and arguments:
            assert arguments == (pynvml.nvmlMemory_v2,)
            question = f"{question}_v2"
        told = device.get(question, {"error": "NOT_SUPPORTED"})
        if question == "nvmlDeviceGetClockInfo" and "error" not in told:
            told = told[{pynvml.NVML_CLOCK_SM: "SM", pynvml.NVML_CLOCK_MEM: "MEM"}[arguments[0]]]
        return _played(told)


def _played(told: Any, raw: bool = False) -> Any:
    if isinstance(told, dict) and "error" in told:
        raise pynvml.NVMLError(getattr(pynvml, f"NVML_ERROR_{told['error']}"))
    if isinstance(told, dict) and not raw:
        return SimpleNamespace(**told)
    if isinstance(told, list) and told and isinstance(told[0], dict):
        return [SimpleNamespace(**item) for item in told]
    return told


def machine(name: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The machine of a file, with the names of its processes, and no GPU hidden."""
    playing = Machine(name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(platform, "release", lambda: playing.release)
    names = {4711: "python3 train.py", 1203: "Xorg", 2044: "gnome-shell"}
    monkeypatch.setattr("engine.gpu.processes.name_of", names.get)
    return playing


def names() -> list[str]:
    """Every file."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))
