"""What is answered: labels and whether they are balanced, and answers of one word.

Balance: Google's guide to text classification (Vertex AI, "Prepare text training data for classification") asks for
50 rows to a label to begin with, hundreds to be good, and wants the most frequent label at most a hundred times as
often as the rarest. The warning here comes earlier, at ten times, or where one label has more than 80 % of the rows:
from there on, a model that always answers the most frequent label looks good by accuracy and has learned nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from engine.datasets.findings import Block, Finding, Ledger
from engine.datasets.report import Problem
from engine.text import clean_line

MAX_LABEL_CHARACTERS = 64
MAX_LABELS = 200
"""More different answers than this are no labels."""
ROWS_PER_LABEL = 5
"""Fewer rows to a label on average than this, and the answers are only short, no labels."""
LONG_SHARE = 0.01
"""So many rows may answer at length in a file of labels: these are mistakes in it."""
MAX_RATIO = 10
MAX_SHARE = 0.8
ENOUGH_ROWS = 50

_MAX_WORD = 30
_MAX_SPACELESS_WORD = 3
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0003ffff]")
"""Scripts that write no spaces (Thai, Lao, Burmese, Khmer, Chinese, Japanese …): a longer answer is a phrase."""
_NAMED = 5

ONE_WORD = Finding(
    "one-word-answers",
    "warning",
    "answer is a single word",
    "answers are a single word",
    "The model learns that a word is enough, also where more is asked for.",
    "Write whole answers, unless this is what the model is to do.",
)


def is_one_word(answer: str) -> bool:
    """True for a single word or number. An answer without spaces in a script that writes none counts by its length."""
    words = answer.split(None, 1)
    if len(words) != 1:
        return False
    return len(words[0]) <= (_MAX_SPACELESS_WORD if _SPACELESS.search(words[0]) else _MAX_WORD)


class Answers:
    """The last answer of each conversation."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._counts: Counter[str] | None = Counter()
        """By answer; None once there are too many different ones."""
        self._rows = 0
        self._short = 0

    def see(self, block: Block) -> None:
        """Count the rows' answers."""
        short = [
            (place, turns[-1]["content"])
            for place, turns in enumerate(block.turns)
            if turns and len(turns[-1]["content"]) <= MAX_LABEL_CHARACTERS and turns[-1]["role"] == "assistant"
        ]
        self._rows += len(block.rows)
        self._short += len(short)
        for place, answer in short:
            if self._counts is not None:
                self._counts[answer] += 1
            if is_one_word(answer):
                self._ledger.add(ONE_WORD, block.at[place], block.rows[place].line)
        if self._counts is not None and len(self._counts) > MAX_LABELS:
            self._counts = None

    def labels(self) -> tuple[tuple[str, int], ...]:
        """Each label with its rows, the most frequent first; empty if the answers are no labels."""
        if not self._counts or self._rows - self._short > self._rows * LONG_SHARE:
            return ()
        counts: Counter[str] = Counter()
        for answer, count in self._counts.items():
            counts[clean_line(answer, MAX_LABEL_CHARACTERS)] += count
        return tuple(counts.most_common()) if self._short >= ROWS_PER_LABEL * len(counts) else ()


def label_problems(labels: tuple[tuple[str, int], ...]) -> Iterator[Problem]:
    """What is wrong with labels, each given with its rows, the most frequent first."""
    if not labels:
        return
    rows = sum(count for _, count in labels)
    (often, most), (rare, least) = labels[0], labels[-1]
    if len(labels) == 1:
        yield _unbalanced(1, f"All {rows:,} answers are the same", "There is only one thing to learn.")
    elif most > rows * MAX_SHARE:
        yield _unbalanced(len(labels), f"{most / rows:.0%} of the answers are {often!r}", _ALWAYS)
    elif most > least * MAX_RATIO:
        yield _unbalanced(len(labels), f"{often!r} is answered {most / least:.0f} times as often as {rare!r}", _ALWAYS)
    few = [(label, count) for label, count in labels if count < ENOUGH_ROWS]
    if few:
        yield _few(few)


_ALWAYS = (
    f"Where one label has more than {MAX_SHARE:.0%} of the rows, or {MAX_RATIO} times those of another, "
    "always answering it looks good, and the rare ones are not learned."
)


def _unbalanced(count: int, title: str, effect: str) -> Problem:
    return Problem(
        kind="unbalanced-labels",
        level="warning",
        title=title,
        count=count,
        effect=effect,
        remedy="Add rows of the rare labels or leave out some of the frequent one; judge the model label by label.",
    )


def _few(few: list[tuple[str, int]]) -> Problem:
    one = len(few) == 1
    named = ", ".join(f"{label!r} {count:,}" for label, count in reversed(few[-_NAMED:]))
    return Problem(
        kind="few-rows-per-label",
        level="warning",
        title=f"{len(few):,} {'label has' if one else 'labels have'} fewer than {ENOUGH_ROWS} rows",
        count=len(few),
        effect=f"Too few to be learned reliably: {named}{' …' if len(few) > _NAMED else ''}.",
        remedy=f"Classification wants {ENOUGH_ROWS} rows to a label to begin with, some hundreds to be good.",
    )
