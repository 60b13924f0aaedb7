"""What happens in a run: one JSON object a line, written strictly by one process, read tolerantly by anybody.

Figures are raw numbers with the unit in the name (`_bytes`, `_s`, `_w`, `_c`). One event is one `os.write` on an
`O_APPEND` descriptor, so that a reader sees whole lines or an unterminated last one, never two mixed.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from engine.config import StageName
from engine.text import Text, clean, clean_line

Level = Literal["ok", "warning", "error"]

LONGEST_TEXT = 4_000
"""Characters of one text in an event."""
MOST_HINTS = 8
LONGEST_EVENT_BYTES = 1 << 20
"""Above every event: JSON writes a character as at most 12 bytes, and no event has more than 11 texts."""


def _clip(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


Clipped = Annotated[Text, AfterValidator(_clip)]
"""A text from outside, cleaned, and cut to `LONGEST_TEXT` characters."""


class EventBase(BaseModel):
    """What each event has; `seq` and `t` (seconds since the epoch) are set by the writer."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)

    v: int = 1
    seq: int = 0
    t: FiniteFloat = 0.0


class Started(EventBase):
    """A worker took the lock and begins a stage."""

    kind: Literal["started"] = "started"
    stage: StageName
    pid: int
    device: Clipped = ""
    versions: dict[str, str] = {}


class Phase(EventBase):
    """What the stage is doing now, in words ("loading the model to NF4")."""

    kind: Literal["phase"] = "phase"
    stage: StageName
    text: Clipped


class Progress(EventBase):
    """How far the stage is: `done` of `total` in `unit` ("bytes", "rows", "tensors")."""

    kind: Literal["progress"] = "progress"
    stage: StageName
    done: float
    total: float
    unit: str = ""
    label: Clipped = ""


class Step(EventBase):
    """One optimizer step."""

    kind: Literal["step"] = "step"
    step: int
    steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    step_s: float | None = None
    trained_tokens: int | None = None
    vram_peak_bytes: int | None = None


class Eval(EventBase):
    """The held-out loss at a step."""

    kind: Literal["eval"] = "eval"
    step: int
    loss: float


class Score(EventBase):
    """Answers on held-out rows, by one form of the model ("base", "as trained", "bf16", "Q4_K_M")."""

    kind: Literal["score"] = "score"
    form: Clipped
    rows: int
    exact: int
    stopped: int = 0
    """How many answers ended by themselves."""
    data: Clipped = ""
    """The file that the rows are of, if they are not the run's own."""

    @property
    def exact_match(self) -> float:
        """Share of answers that equal the expected one, 0 to 1."""
        return self.exact / self.rows if self.rows else 0.0


class Sample(EventBase):
    """What the model answers at a step."""

    kind: Literal["sample"] = "sample"
    step: int
    prompt: Clipped
    answer: Clipped
    expected: Clipped = ""


class Checkpoint(EventBase):
    """A checkpoint is whole on disk."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    path: Clipped
    size_bytes: int


class Gpu(EventBase):
    """A reading of the GPU while the stage runs; None is "not available"."""

    kind: Literal["gpu"] = "gpu"
    name: Clipped = ""
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None


class Probe(EventBase):
    """The longest batch, forward and backward before the first step: what was expected on the GPU, and what it took."""

    kind: Literal["probe"] = "probe"
    rows: int
    """Rows in the pass."""
    length: int
    """Tokens of its longest row; the others are filled up to it."""
    predicted_bytes: int
    """The plan's sum for these rows."""
    measured_bytes: int | None = None
    """The most that the GPU holds, with the optimizer that comes at the first step; None: the GPU was full."""
    available_bytes: int | None = None
    """What it may hold."""
    fits: bool
    changes: dict[str, str] = {}
    """What is trained with otherwise than planned, because of what was measured: settings with their section."""


class Finding(EventBase):
    """Something that the user should know, and what to do about it."""

    kind: Literal["finding"] = "finding"
    level: Level
    title: Clipped
    detail: Clipped = ""


class Check(EventBase):
    """One line of the certificate."""

    kind: Literal["check"] = "check"
    form: Clipped
    title: Clipped
    compared: Clipped
    figure: Clipped
    limit: Clipped
    passed: bool
    remedy: Clipped = ""


class Output(EventBase):
    """A stage's output stands under its final name."""

    kind: Literal["output"] = "output"
    stage: StageName
    path: Clipped
    size_bytes: int


class Finished(EventBase):
    """The stage is done."""

    kind: Literal["finished"] = "finished"
    stage: StageName
    seconds: FiniteFloat


class Stopped(EventBase):
    """The stage ended because somebody asked it to; what there is is saved."""

    kind: Literal["stopped"] = "stopped"
    stage: StageName
    step: int | None = None
    reason: Clipped = ""


class Failed(EventBase):
    """The stage ended with an error, in the words of a `FinetuiError`."""

    kind: Literal["failed"] = "failed"
    stage: StageName
    title: Clipped
    detail: Clipped = ""
    hints: tuple[Clipped, ...] = ()
    exit_code: int = 5


class Unknown(EventBase):
    """An event of a newer version: kept, not understood."""

    kind: str
    raw: dict[str, Any] = {}


Known = (
    Started | Phase | Progress | Step | Eval | Score | Sample | Checkpoint | Gpu | Probe | Finding | Check | Output
    | Finished | Stopped | Failed
)  # fmt: skip
Event = Known | Unknown

_ADAPTER: TypeAdapter[Known] = TypeAdapter(Annotated[Known, Field(discriminator="kind")])
_KINDS = frozenset(get for cls in Known.__args__ for get in [cls.model_fields["kind"].default])


def parse(line: bytes) -> Event | None:
    """The event of one line; None if the line holds none (torn, NUL-filled, not an object)."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None
    if not isinstance(raw, dict) or not isinstance(raw.get("kind"), str):
        return None
    try:
        if raw["kind"] in _KINDS:
            return _ADAPTER.validate_python(raw)
        return Unknown(kind=clean_line(raw["kind"]), raw=raw, seq=raw.get("seq", 0), t=raw.get("t", 0.0))
    except ValidationError:
        return None


RESERVE_BYTES = 65_536
"""Kept aside for a run's last words; they are a few kilobytes."""


class EventWriter:
    """The one writer of a run's events: the process that holds the lock.

    With `reserve` it keeps some disk aside, so that on a full disk the run can still tell how it ended.
    """

    def __init__(self, path: Path, *, reserve: bool = False) -> None:
        self._reserve = path.with_suffix(".reserve")
        if reserve:
            _allocate(self._reserve, RESERVE_BYTES)
        self._lock = threading.Lock()  # a GPU reading may come while the stage itself tells something
        end = _end_of(path)
        self._seq = next((event.seq for event in map(parse, reversed(end.splitlines())) if event), 0)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if end and not end.endswith(b"\n"):
            os.write(self._fd, b"\n")  # a writer before us died within a line: close it, so that ours is whole

    def write(self, event: Known) -> None:
        """Append the event, numbered and timed. Raises OSError if the disk is full."""
        with self._lock:
            self._seq += 1
            whole = event.model_copy(update={"seq": self._seq, "t": time.time()})
            line = json.dumps(whole.model_dump(), ensure_ascii=True, separators=(",", ":"))
            self._append(line.encode("ascii") + b"\n", last=isinstance(event, Finished | Stopped | Failed))

    def _append(self, line: bytes, *, last: bool) -> None:
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            written = 0
        if written == len(line):
            return
        self._reserve.unlink(missing_ok=True)
        if written:
            os.write(self._fd, b"\n")  # a torn line is closed, so that the next one is whole
        if not last:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.write(self._fd, line)

    def close(self) -> None:
        """Close the descriptor and give the reserve back."""
        os.close(self._fd)
        self._reserve.unlink(missing_ok=True)


def _allocate(path: Path, size: int) -> None:
    """Really take the bytes: a sparse file would reserve nothing."""
    path.write_bytes(b"\0" * size)


def _end_of(path: Path, size: int = 2 * LONGEST_EVENT_BYTES) -> bytes:
    """The last bytes of a file, a whole event and a torn one among them; nothing if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read()
    except FileNotFoundError:
        return b""


class EventTail:
    """Follows a file of events by offset: each poll reads only what was added since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0
        self.unreadable = 0
        """Lines that held no event."""
        self.restarted = False
        """True if the last poll found another file and began anew; what was read before is void."""

    def poll(self) -> list[Event]:
        """The events since the last poll; an unterminated last line waits for its end."""
        self.restarted = False
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self.restarted = self._inode != 0
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                data = file.read()
        except (FileNotFoundError, IsADirectoryError, PermissionError):
            return []  # a run that cannot be read has not told anything
        end = data.rfind(b"\n") + 1
        self._offset += end
        return self._parse(data[:end])

    def _parse(self, data: bytes) -> list[Event]:
        events = []
        for line in data.splitlines():
            event = parse(line)
            if event is not None:
                events.append(event)
            elif line.strip(b"\0 \t"):
                self.unreadable += 1
        return events


def failed_from(stage: StageName, error: BaseException) -> Failed:
    """The `failed` event of any exception; a `FinetuiError` keeps its words and its exit code."""
    title = getattr(error, "title", None)
    if title is not None:
        code = int(getattr(error, "code", 1))
        hints = tuple(clean(hint) for hint in getattr(error, "hints", ()))[:MOST_HINTS]
        return Failed(stage=stage, title=title, detail=getattr(error, "detail", ""), hints=hints, exit_code=code)
    return Failed(
        stage=stage,
        title=f"The {stage} stage failed unexpectedly",
        detail=clean_line(f"{type(error).__name__}: {error}", 600),
        hints=("The whole traceback stands at the end of the run's worker.log.",),
        exit_code=1,
    )
