"""What a check of the data ends in: figures, problems with their places, and token statistics. Values only."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from engine.config import Frozen
from engine.datasets.base import Message
from engine.text import Text

Level = Literal["error", "warning"]

MAX_TURNS = 20
"""Longer conversations are counted as this long."""


class Problem(Frozen):
    """Something that is wrong with the data."""

    kind: str
    """A stable name for programs: `exact-duplicates`."""
    level: Level
    """error: the data are refused; warning: they can be trained on, and the plan says so."""
    title: Text
    """`2 rows are not JSON`."""
    count: int
    """Rows (or groups of rows, or labels: the title says which)."""
    places: tuple[Text, ...] = ()
    """The first five, as the reader names them: `data.jsonl:12`."""
    effect: Text = ""
    """What it does to training."""
    remedy: Text = ""


class Verdict(Frozen):
    """One answer to "will the model stop?"."""

    level: Literal["ok", "warning", "error"]
    title: Text
    detail: Text = ""


class Cut(NamedTuple):
    """What a `max_length` costs, in the rows that were tokenized."""

    rows: int
    """Rows that are longer, and lose their end."""
    tokens_lost: int
    trained_lost: int
    dropped: int
    """Rows without a trained token left; those that never had one are among them."""
    trained_share: float
    """`trained_lost` as a share of all trained tokens, 0 to 1."""


class TokenStats(Frozen):
    """Lengths in tokens, and what is trained of them, with one preset's tokenizer.

    The histograms count from 0: bin b of `lengths` holds the rows of b·width + 1 … (b + 1)·width tokens (a row of no
    tokens is in bin 0), bin b of the others holds the positions b·width … (b + 1)·width - 1. So what a cut at a
    multiple of `width` costs is a sum over bins, without rounding.
    """

    tokenizer: Text
    """Which one, as people know it."""
    rows: int
    """Rows that were tokenized."""
    of_rows: int
    """Rows that there are to learn from; more than `rows` where a sample was taken, or the pass was stopped."""
    max_length: int
    tokens: int
    """Of the tokenized rows, before the cut."""
    trained: int
    """Of `tokens`, those that are learned."""
    longest: int
    median: int
    p95: int
    """95 of 100 rows have so many tokens or fewer."""
    truncated: int
    """Rows longer than `max_length`."""
    lost: int
    """Trained tokens behind `max_length`."""
    dropped: int
    """Rows without a trained token left within `max_length`."""
    width: int = Field(default=64, gt=0)
    """Tokens to a bin."""
    lengths: tuple[int, ...] = ()
    """Rows by their length."""
    tokens_at: tuple[int, ...] = ()
    """Tokens by their position."""
    trained_at: tuple[int, ...] = ()
    """Trained tokens by their position."""
    firsts: tuple[int, ...] = ()
    """Rows by the position of their first trained token; rows without any are in no bin."""
    verdicts: tuple[Verdict, ...] = ()
    """Will it stop?"""

    def cut(self, max_length: int) -> Cut:
        """What `max_length` costs. Exact at multiples of `width`; between them the cost of the multiple below."""
        kept = max(0, max_length) // self.width
        trained_lost = sum(self.trained_at[kept:])
        return Cut(
            rows=sum(self.lengths[kept:]),
            tokens_lost=sum(self.tokens_at[kept:]),
            trained_lost=trained_lost,
            dropped=self.rows - sum(self.firsts[:kept]),
            trained_share=trained_lost / self.trained if self.trained else 0.0,
        )


class DatasetReport(Frozen):
    """What a check found."""

    path: str
    format: str
    """As detected or as named; `unknown` if no format fits."""
    container: str = ""
    """How the file holds its rows, by its reader's name: `jsonl`, `parquet` …"""
    kind: Literal["chat", "text"] = "chat"
    """chat: answers are learned; text: raw text is continued, all of it is learned."""
    sha256: str
    """Of the bytes of the file to learn from."""
    size_bytes: int
    rows: int
    """Rows to learn from, those that are mixed in included."""
    eval_rows: int
    """Held-out rows."""
    eval_sha256: str = ""
    """Of the bytes of the file of held-out rows, if there is one."""
    gold_rows: int = 0
    """Rows of the hand-checked file, if there is one."""
    gold_sha256: str = ""
    mix_rows: int = 0
    """Of `rows`, those that are mixed in from another file against forgetting."""
    mix_sha256: str = ""
    skipped: int = 0
    """Rows that their own tool marked as not to be used."""
    turns: int
    """Messages of all roles in the rows of the file to learn from."""
    roles: dict[str, int] = {}
    """Messages by role."""
    turn_counts: dict[int, int] = {}
    """Rows by the number of their messages; more than 20 are counted as 20."""
    labels: tuple[tuple[Text, int], ...] = ()
    """Where the answers are labels (few and short): each with its rows, the most frequent first."""
    approximate_tokens: int
    """Of the rows to learn from, by the length of their text."""
    longest_characters: int
    """Characters of the longest row."""
    problems: tuple[Problem, ...] = ()
    """Errors first."""
    sample: tuple[tuple[Message, ...], ...] = ()
    """The first rows, safe to show and cut to what a screen can hold; raw text is one message of the role `text`."""
    tokens: TokenStats | None = None
    """None until the rows were tokenized."""
    near_checked: int = 0
    """Rows that were compared for near duplicates."""
    complete: bool = True
    """False while the file is still being read; what needs all rows is told only then."""

    @property
    def refused(self) -> bool:
        """True if the data cannot be trained on as they are."""
        return any(problem.level == "error" for problem in self.problems)


class Piece(Frozen):
    """A part of a row as the model sees it: a token, or a whole message where there is no tokenizer."""

    text: Text
    trained: bool
    special: bool = False
    """A control token: not text that anybody wrote."""


class ShownRow(Frozen):
    """One row for the row browser."""

    index: int
    """Counted from 0 in the file; blank lines do not count, rows that cannot be used do."""
    line: int
    place: Text
    findings: tuple[Text, ...] = ()
    """What is wrong with this row."""
    pieces: tuple[Piece, ...] = ()
    tokens: int = 0
    trained: int = 0
    cut: int | None = None
    """Of the first piece behind `max_length`; None if nothing is cut."""
    note: Text = ""
    """`by role: this model's tokenizer is not here yet`."""


__all__ = ["Cut", "DatasetReport", "Level", "Piece", "Problem", "ShownRow", "TokenStats", "Verdict"]
