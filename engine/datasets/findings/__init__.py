"""What a scan looks for: one small file per group of findings. Each sees block after block, and notes what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from typing import Any, TypeVar

from engine.datasets.base import Message, Row
from engine.datasets.report import Level, Problem
from engine.datasets.rowindex import RowIndex
from engine.text import clean_line

MAX_PLACES = 5
SLICE = 1 << 18
"""Characters that are looked at as one array, or judged as one text."""


@dataclass(frozen=True)
class Finding:
    """Something that can be wrong with a row."""

    kind: str
    """A stable name for programs."""
    level: Level
    one: str
    """What is said of one such row: "row is not JSON"."""
    many: str
    effect: str
    remedy: str
    of_row: str = ""
    """The same in the row browser, where it differs."""

    def problem(self, count: int, places: Sequence[str] = (), first: str = "") -> Problem:
        """So many of them, where the first few are, and what exactly is wrong with the first."""
        return Problem(
            kind=self.kind,
            level=self.level,
            title=f"{count:,} {self.one if count == 1 else self.many}",
            count=count,
            places=tuple(places[:MAX_PLACES]),
            effect=f"First: {clean_line(first)}. {self.effect}" if first else self.effect,
            remedy=self.remedy,
        )


class Ledger:
    """What was found so far in one file: how often, the first places, and a mark in the file's index."""

    def __init__(self, place: Callable[[int], str], index: RowIndex | None = None) -> None:
        self.place = place
        self.index = index
        self._counts: Counter[Finding] = Counter()
        self._places: dict[Finding, list[str]] = {}
        self._firsts: dict[Finding, str] = {}

    def add(self, finding: Finding, at: int, line: int, detail: str = "") -> None:
        """Note a finding of the row at index `at`, which begins on `line`."""
        self._counts[finding] += 1
        self._firsts.setdefault(finding, detail)
        places = self._places.setdefault(finding, [])
        if len(places) < MAX_PLACES:
            places.append(self.place(line))
        if self.index is not None:
            self.index.flag((at,), finding.kind, finding.of_row or finding.one)

    def problems(self, without: Sequence[Finding] = ()) -> Iterator[Problem]:
        """One for each finding that was made, in the order of their first places."""
        for finding, count in self._counts.items():
            if finding not in without:
                yield finding.problem(count, self._places[finding], self._firsts[finding])


@dataclass
class Block:
    """Some usable rows of a file, in its order, with what several searches need of them. Flat lists are quick lists."""

    rows: list[Row]
    at: Sequence[int]
    """Where each row stands in the index."""
    turns: list[list[Message]]
    """Each row's messages; none in a row of raw text."""
    messages: list[Message]
    """Those of all rows."""
    parts: list[str]
    """All texts of all rows."""
    sizes: list[int]
    """How many of `parts` are of each row."""
    text: str
    """All of `parts`, separated by NUL, which no usable row holds."""

    @cached_property
    def texts(self) -> list[str]:
        """The text of each row, likewise."""
        return ["\0".join(its) for its in by_row(self.parts, self.sizes)]


def make_block(rows: list[Row], at: Sequence[int]) -> Block:
    """The block of these rows, at least one."""
    turns = [row.messages for row in rows]
    messages = list(chain.from_iterable(turns))
    sizes = list(map(len, turns))
    if min(sizes) == 0 or max(map(len, messages)) > 2:
        of_rows = [list(parts(row)) for row in rows]
        found, sizes = list(chain.from_iterable(of_rows)), list(map(len, of_rows))
    else:
        found = list(map(_CONTENT, messages))
    return Block(rows, at, turns, messages, found, sizes, "\0".join(found))


_CONTENT: Callable[[Message], str] = itemgetter("content")

_T = TypeVar("_T")


def by_row(flat: Sequence[_T], sizes: Sequence[int]) -> Iterable[tuple[_T, ...]]:
    """The items of each row, given how many each has. Where all have as many, Python never sees them one by one."""
    items = iter(flat)
    if min(sizes) == max(sizes) > 0:
        return zip(*[items] * sizes[0], strict=True)
    return (tuple(islice(items, size)) for size in sizes)


def slices(text: str, overlap: int) -> Iterator[tuple[int, str]]:
    """A text in slices that overlap by so many characters, each with its start: what is made of them stays small."""
    for start in range(0, len(text), SLICE):
        yield start, text if len(text) <= SLICE else text[start : start + SLICE + overlap]


def parts(row: Row) -> Iterator[str]:
    """Every text in a row: contents, thoughts, and what its tools are called with."""
    if not row.messages:
        yield row.text
    for message in row.messages:
        yield message["content"]
        if len(message) > 2:
            yield from _more(message)


def _more(message: Message) -> Iterator[str]:
    if "reasoning_content" in message:
        yield message["reasoning_content"]
    if "tool_calls" in message:
        yield from strings(message["tool_calls"])


def strings(value: Any) -> Iterator[str]:
    """Every text inside a JSON value; keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)
