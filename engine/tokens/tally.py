"""What tokenizing a set of rows came to: how long they are, what is trained of them, and what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.tokens.labels import IGNORED, Encoded

PLACES = 5
"""How many lines are kept of each kind of trouble."""

STRADDLING_LIMIT = 0.1
"""Share of answers whose first token may differ from what inference meets; above it, the template is at fault."""


@dataclass
class Tally:
    """Counts over rows, each with its whole length, whatever the cut."""

    rows: int = 0
    tokens: int = 0
    """Within the cut, of the rows that are not dropped."""
    trained: int = 0
    """Of `tokens`, those that are trained."""
    all_tokens: int = 0
    """Before the cut."""
    all_trained: int = 0
    longest: int = 0
    """Tokens of the longest row."""
    truncated: int = 0
    """Rows that were longer than the cut."""
    dropped: int = 0
    """Rows without a trained token left after the cut."""
    answers: int = 0
    """Assistant's turns, and rows of raw text."""
    texts: int = 0
    """Rows of raw text."""
    ends: Counter[int] = field(default_factory=Counter)
    """How many answers each token ends, whatever the cut."""
    lost_ends: int = 0
    """Of `ends`, those behind the cut, which are not learned."""
    straddling: int = 0
    """Answers whose beginning a token reaches across."""
    straddling_places: list[str] = field(default_factory=list)
    """`data.jsonl:3`, the first five."""
    injected: Counter[str] = field(default_factory=Counter)
    """Special tokens' texts in the rows' own messages."""
    injected_rows: int = 0
    injected_places: list[str] = field(default_factory=list)
    _lengths: Counter[int] = field(default_factory=Counter)
    _firsts: Counter[int] = field(default_factory=Counter)
    _steps: Counter[int] = field(default_factory=Counter)
    """By position: how many trained spans begin there, less how many end."""

    @property
    def end_of_turn(self) -> int | None:
        """The token that ends most answers."""
        return max(self.ends, key=lambda token: self.ends[token], default=None)

    @property
    def lost(self) -> int:
        """Trained tokens behind the cut."""
        return self.all_trained - self.trained

    def add(self, whole: Encoded, max_length: int, file: str = "") -> bool:
        """Count a row of a file before it is cut; True if it has a trained token within `max_length`."""
        length, trained = len(whole.input_ids), whole.trained
        self.rows += 1
        self.all_tokens += length
        self.all_trained += trained
        self.longest = max(self.longest, length)
        self._lengths[length] += 1
        self._add_spans(whole, trained)
        self._add_trouble(whole, f"{file}:{whole.line}")
        self.lost_ends += sum(stop > max_length for stop in whole.ended)
        kept = whole.first is not None and whole.first < max_length
        self.dropped += not kept
        if length > max_length:
            self.truncated += 1
            trained = max_length - whole.labels[:max_length].count(IGNORED)
        self.tokens += min(length, max_length) if kept else 0
        self.trained += trained if kept else 0
        return kept

    def _add_spans(self, whole: Encoded, trained: int) -> None:
        if whole.first is not None:
            self._firsts[whole.first] += 1
        spans = whole.spans
        if trained != sum(stop - start for start, stop in spans):  # forged tokens lie between
            spans = tuple((at, at + 1) for at, label in enumerate(whole.labels) if label != IGNORED)
        for start, stop in spans:
            self._steps[start] += 1
            self._steps[stop] -= 1

    def _add_trouble(self, whole: Encoded, place: str) -> None:
        self.answers += whole.answers
        self.texts += whole.raw
        self.ends.update(whole.ends)
        if whole.straddling:
            self.straddling += whole.straddling
            self.straddling_places += [place] * (len(self.straddling_places) < PLACES)
        if whole.injected:
            self.injected.update(whole.injected)
            self.injected_rows += 1
            self.injected_places += [place] * (len(self.injected_places) < PLACES)

    def percentile(self, share: float) -> int:
        """Tokens that so many of the rows (0 to 1) have or fewer; 0 without rows."""
        wanted, seen = share * self.rows, 0
        for length in sorted(self._lengths):
            seen += self._lengths[length]
            if seen >= wanted:
                return length
        return 0

    def rows_by_length(self, width: int) -> tuple[int, ...]:
        """Rows of 1 … width tokens, of width + 1 … 2·width, and so on; a row of no tokens is in the first."""
        last: Counter[int] = Counter()
        for length, rows in self._lengths.items():
            last[max(length - 1, 0)] += rows
        return _bins(last, width)

    def rows_by_first(self, width: int) -> tuple[int, ...]:
        """Rows by the position of their first trained token: 0 … width - 1, and so on; rows without are in no bin."""
        return _bins(self._firsts, width)

    def tokens_at(self, width: int) -> tuple[int, ...]:
        """Tokens at the positions 0 … width - 1, and so on."""
        return _by_position(Counter({0: self.rows}), self._lengths, width)

    def trained_at(self, width: int) -> tuple[int, ...]:
        """Trained tokens at the positions 0 … width - 1, and so on."""
        return _by_position(self._steps, Counter(), width)


def _bins(counts: Mapping[int, int], width: int) -> tuple[int, ...]:
    found = [0] * (max(counts, default=-1) // width + 1)
    for value, count in counts.items():
        found[value // width] += count
    return tuple(found)


def _by_position(begins: Mapping[int, int], ends: Mapping[int, int], width: int) -> tuple[int, ...]:
    """Sums over bins of how many intervals cover each position."""
    import numpy as np

    steps = np.zeros(-(-(max([*begins, *ends], default=0)) // width) * width + 1, np.int64)
    for counts, sign in ((begins, 1), (ends, -1)):
        for position, count in counts.items():
            steps[position] += sign * count
    return tuple(steps.cumsum()[:-1].reshape(-1, width).sum(axis=1).tolist())
