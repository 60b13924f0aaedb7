"""The check of a data file before anything is spent on it: one pass, in bounded memory, every fault with its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engine.config import DatasetSpec, Frozen
from engine.datasets import find_format
from engine.datasets.base import Fault, Format, Message, Unusable
from engine.datasets.lines import Line, open_data, read_lines, refuse_binary
from engine.datasets.rows import detect, fingerprint, is_blank, parse_line
from engine.datasets.split import held_out_count
from engine.text import Text, clean, clean_line
from engine.units import MIB

MAX_PLACES = 5
SAMPLE_ROWS = 3
MIN_ROWS = 2
FEW_ROWS = 50
"""Fewer rows than this teach a format at best."""
MAX_FINGERPRINTS = 1_000_000
"""Rows that are compared with each other; each costs about 100 bytes of memory."""
BYTES_PER_TOKEN = 4
"""English text in UTF-8, with tokenizers of 32 to 150 thousand tokens; other scripts use more bytes a letter too."""
TOKENS_PER_TURN = 5
"""What a chat template writes around a turn."""

OnProgress = Callable[[int, int], None]


class Problem(Frozen):
    """Something that is wrong with the data."""

    level: Literal["error", "warning"]
    title: Text
    """`2 rows are not JSON`."""
    count: int
    places: tuple[Text, ...] = ()
    """The first few, as `file:line`."""
    effect: Text = ""
    remedy: Text = ""


class DatasetReport(Frozen):
    """What a scan found."""

    path: str
    format: str
    """As detected or as named; `unknown` if no format fits."""
    sha256: str
    """Of the bytes of the file to learn from."""
    size_bytes: int
    rows: int
    """Rows to learn from."""
    eval_rows: int
    """Held-out rows."""
    eval_sha256: str = ""
    """Of the bytes of the file of held-out rows, if there is one."""
    turns: int
    """Messages of all roles in the rows of the file to learn from."""
    approximate_tokens: int
    """Of the rows to learn from, by the length of their text."""
    longest_characters: int
    """Characters of the longest row."""
    problems: tuple[Problem, ...] = ()
    """Errors first."""
    sample: tuple[tuple[Message, ...], ...] = ()
    """The first rows, safe to show."""

    @property
    def refused(self) -> bool:
        """True if the data cannot be trained on as they are."""
        return any(problem.level == "error" for problem in self.problems)


@dataclass
class _Faults:
    """What was found so far, by kind, with the first places."""

    counts: dict[Fault, int] = field(default_factory=dict)
    places: dict[Fault, list[str]] = field(default_factory=dict)
    firsts: dict[Fault, str] = field(default_factory=dict)

    def add(self, fault: Fault, place: str, detail: str) -> None:
        self.counts[fault] = self.counts.get(fault, 0) + 1
        self.firsts.setdefault(fault, detail)
        places = self.places.setdefault(fault, [])
        if len(places) < MAX_PLACES:
            places.append(place)

    def problems(self) -> list[Problem]:
        found = []
        for fault, count in self.counts.items():
            first = f"First: {clean_line(self.firsts[fault])}. " if self.firsts[fault] else ""
            found.append(
                Problem(
                    level="error",
                    title=fault.title(count),
                    count=count,
                    places=tuple(clean_line(place) for place in self.places[fault]),
                    effect=first + fault.effect,
                    remedy=fault.remedy,
                )
            )
        return found


@dataclass
class _Pass:
    """One file's scan under way."""

    path: Path
    format: Format | None
    max_rows: int | None
    faults: _Faults
    size_bytes: int = 0
    rows: int = 0
    turns: int = 0
    text_bytes: int = 0
    longest: int = 0
    seen: set[int] = field(default_factory=set)
    repeated: set[int] = field(default_factory=set)
    duplicates: int = 0
    duplicate_places: list[str] = field(default_factory=list)
    excluded: int = 0
    sample: list[tuple[Message, ...]] = field(default_factory=list)

    def add(self, line: Line, held_out: set[int]) -> None:
        """Count a line, unless it is blank or behind the last row that is wanted."""
        if is_blank(line) or (self.max_rows is not None and self.rows >= self.max_rows):
            return
        try:
            messages = parse_line(line, self.format)
        except Unusable as bad:
            self.faults.add(bad.fault, f"{self.path.name}:{line.number}", bad.detail)
            return
        self.rows += 1
        mark = fingerprint(messages)
        if mark in held_out:
            self.excluded += 1
        self._compare(mark, line.number)
        self._measure(messages)

    def _measure(self, messages: list[Message]) -> None:
        self.turns += len(messages)
        self.text_bytes += sum(len(message["content"].encode()) for message in messages)
        self.longest = max(self.longest, sum(len(message["content"]) for message in messages))
        if len(self.sample) < SAMPLE_ROWS:
            shown: list[Message] = [{"role": m["role"], "content": clean(m["content"])} for m in messages]
            self.sample.append(tuple(shown))

    def _compare(self, mark: int, number: int) -> None:
        if mark in self.seen:
            self.duplicates += 1
            self.repeated.add(mark)
            if len(self.duplicate_places) < MAX_PLACES:
                self.duplicate_places.append(clean_line(f"{self.path.name}:{number}"))
        elif len(self.seen) < MAX_FINGERPRINTS:
            self.seen.add(mark)

    @property
    def single(self) -> int:
        """Rows that occur once."""
        return self.rows - self.duplicates - len(self.repeated)


def scan(spec: DatasetSpec, on_progress: OnProgress | None = None) -> DatasetReport:
    """Read the data through once and report.

    `on_progress` is called with bytes done and bytes in all. Memory stays bounded whatever the file holds.
    Raises `DataError` if there is no file to report on (missing, a folder, empty, not readable, not text),
    `UsageError` for a format that does not exist.
    """
    paths = [Path(spec.eval_path)] * bool(spec.eval_path) + [Path(spec.path)]
    total = sum(_size(path) for path in paths)
    counter = _Counter(total, on_progress)
    faults = _Faults()
    no_file = (None, "")
    held_out, eval_sha256 = _scan_file(paths[0], spec, faults, counter, None, set()) if spec.eval_path else no_file
    known = held_out.seen if held_out else set()
    learned, digest = _scan_file(paths[-1], spec, faults, counter, spec.max_rows, known)
    return _report(spec, learned, held_out, digest, faults).model_copy(update={"eval_sha256": eval_sha256})


class _Counter:
    def __init__(self, total: int, tell: OnProgress | None) -> None:
        self._done, self._told, self._total, self._tell = 0, 0, total, tell

    def add(self, count: int) -> None:
        self._done += count
        if self._tell and (self._done - self._told >= MIB or self._done >= self._total):
            self._told = self._done
            self._tell(self._done, max(self._total, self._done))


def _size(path: Path) -> int:
    with open_data(path) as file:
        head = file.read(4096)
        refuse_binary(path, head)
        return file.seek(0, 2)


def _scan_file(
    path: Path, spec: DatasetSpec, faults: _Faults, counter: _Counter, max_rows: int | None, held_out: set[int]
) -> tuple[_Pass, str]:
    """Scan one file; also its SHA-256 in hexadecimal."""
    found = _Pass(path, detect(path) if spec.format == "auto" else find_format(spec.format), max_rows, faults)
    digest = hashlib.sha256()

    def on_bytes(data: bytes) -> None:
        digest.update(data)
        found.size_bytes += len(data)
        counter.add(len(data))

    with open_data(path) as file:
        for line in read_lines(file, on_bytes):
            found.add(line, held_out)
    return found, digest.hexdigest()


def _report(spec: DatasetSpec, learned: _Pass, held_out: _Pass | None, digest: str, faults: _Faults) -> DatasetReport:
    if held_out is not None:
        eval_rows, rows = held_out.rows, learned.rows - learned.excluded
    else:
        eval_rows = held_out_count(learned.rows, learned.single, spec.eval_fraction)
        rows = learned.rows - eval_rows
    tokens = learned.text_bytes // BYTES_PER_TOKEN + learned.turns * TOKENS_PER_TURN
    problems = [*faults.problems(), *_size_problems(rows, learned), *_split_problems(rows, eval_rows, learned)]
    return DatasetReport(
        path=spec.path,
        format=learned.format.name if learned.format else "unknown",
        sha256=digest,
        size_bytes=learned.size_bytes,
        rows=rows,
        eval_rows=eval_rows,
        turns=learned.turns,
        approximate_tokens=tokens * rows // learned.rows if learned.rows else 0,
        longest_characters=learned.longest,
        problems=tuple(sorted(problems, key=lambda problem: problem.level)),
        sample=tuple(learned.sample),
    )


def _size_problems(rows: int, learned: _Pass) -> list[Problem]:
    if rows < MIN_ROWS:
        effect = "There is nothing to learn from."
        remedy = "Add rows: a few hundred is a good start."
        return [Problem(level="error", title=_too_few(rows), count=rows, effect=effect, remedy=remedy)]
    found = []
    if rows < FEW_ROWS:
        effect = "So few rows are learned by heart at best."
        remedy = "Add rows: a few hundred is a good start; fewer epochs keep it from memorizing."
        found.append(Problem(level="warning", title=_too_few(rows), count=rows, effect=effect, remedy=remedy))
    if learned.duplicates:
        count = learned.duplicates
        limit = f" (among the first {MAX_FINGERPRINTS:,} rows)" if len(learned.seen) >= MAX_FINGERPRINTS else ""
        found.append(
            Problem(
                level="warning",
                title=f"{count:,} exact {'duplicate' if count == 1 else 'duplicates'}{limit}",
                count=count,
                places=tuple(learned.duplicate_places),
                effect="What is repeated counts more than the rest; held-out rows are never among the repeated.",
                remedy="Delete the repetitions if they are not meant.",
            )
        )
    return found


def _too_few(rows: int) -> str:
    return f"Only {rows} {'row' if rows == 1 else 'rows'} to learn from"


def _split_problems(rows: int, eval_rows: int, learned: _Pass) -> list[Problem]:
    found = []
    if eval_rows == 0 and rows >= MIN_ROWS:
        effect = "Nothing tells learning from memorizing."
        remedy = "Keep some back: --set eval_fraction=0.04"
        found.append(Problem(level="warning", title="No held-out rows", count=0, effect=effect, remedy=remedy))
    if learned.excluded:
        one = learned.excluded == 1
        found.append(
            Problem(
                level="warning",
                title=f"{learned.excluded:,} {'row is' if one else 'rows are'} also held out",
                count=learned.excluded,
                effect="They are left out of learning, so that the held-out score stays honest.",
                remedy="Nothing needs to be done.",
            )
        )
    return found
