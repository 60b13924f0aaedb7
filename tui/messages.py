"""What threads and screens tell: small values; the handlers own all state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from textual.message import Message

if TYPE_CHECKING:
    from engine.errors import FinetuiError
    from engine.gpu import GpuStatus
    from engine.paths import RunDir
    from engine.runs import RunInfo
    from engine.state import RunState, Status

ScreenName = Literal["home", "setup", "train", "export", "chat"]


@dataclass
class Open(Message):
    """A screen asks to go to another; `run` is needed by all but home and setup."""

    screen: ScreenName
    run: RunDir | None = None


@dataclass
class Problem(Message):
    """Something went wrong that a person can act on; the app shows it."""

    error: FinetuiError


@dataclass
class RunChanged(Message, bubble=False):
    """A run has new events, or its worker came or went."""

    run: RunDir
    state: RunState
    status: Status


@dataclass
class RunGone(Message, bubble=False):
    """The folder of the run that is shown was deleted."""

    run: RunDir


@dataclass
class RunsChanged(Message, bubble=False):
    """Every run, newest first. `complete` is False while the first reading still goes on."""

    runs: Sequence[RunInfo]
    complete: bool = True


@dataclass(frozen=True)
class Usage:
    """What a worker takes of the machine when there is no GPU to look at."""

    cpu_share: float
    """Of all cores, 0 to 1."""
    cores: int
    rss_bytes: int
    total_bytes: int
    """The machine's memory."""


@dataclass
class GpuChanged(Message, bubble=False):
    """A reading of the GPU; `usage` is the worker's, where a run is watched and works on the CPU."""

    status: GpuStatus
    usage: Usage | None = None
    ours: frozenset[int] = frozenset()
    """Of the processes on the GPU, those of the run that is watched, by pid."""
