"""What this machine has, what is missing, and what to do about it. Heavy libraries are asked in a child process."""

from __future__ import annotations

from collections.abc import Iterator

from engine import gpu
from engine.doctor import libraries, machine
from engine.doctor.diagnosis import Diagnosis
from engine.doctor.graphics import graphics
from engine.doctor.libraries import ESSENTIAL, judged, package
from engine.doctor.ollama import ollama

__all__ = ["ESSENTIAL", "Diagnosis", "examine"]


def examine() -> Iterator[Diagnosis]:
    """Look at everything, in the order in which one would mend it."""
    yield machine.python()
    yield from map(package, ("finetui", *ESSENTIAL))
    status = gpu.read()
    yield from graphics(status)
    yield from judged(libraries.probe(), status.gpus)
    yield ollama(has_gpu=bool(status.gpus))
    yield machine.disk()
    yield machine.cache()
    yield machine.memory()
    yield machine.token()
    yield machine.terminal()
