"""Which rows are learned from and which are held out."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

from engine.config import DatasetSpec
from engine.datasets.base import Row
from engine.datasets.rows import fingerprint, read_rows

MAX_HELD_OUT = 500
"""More held-out rows cost evaluation time and tell nothing new."""


def split(spec: DatasetSpec, seed: int) -> tuple[list[Row], list[Row]]:
    """The rows to learn from and the held-out ones, each in the file's order; the same for the same seed.

    Identical rows never stand on both sides: with a separate file, what is in it is left out of learning;
    without one, only rows that occur once are held out. Raises `DataError` at the first unusable row.
    """
    rows = list(islice(read_rows(Path(spec.path), spec.format), spec.max_rows))
    if spec.eval_path:
        held_out = list(read_rows(Path(spec.eval_path), spec.format))
        known = {fingerprint(row.messages) for row in held_out}
        return [row for row in rows if fingerprint(row.messages) not in known], held_out
    marks = [fingerprint(row.messages) for row in rows]
    counts = Counter(marks)
    single = [index for index, mark in enumerate(marks) if counts[mark] == 1]
    chosen = set(random.Random(seed).sample(single, held_out_count(len(rows), len(single), spec.eval_fraction)))
    return (
        [row for index, row in enumerate(rows) if index not in chosen],
        [row for index, row in enumerate(rows) if index in chosen],
    )


def held_out_count(rows: int, single: int, fraction: float) -> int:
    """How many of the rows are held out, `single` of them occurring once: at least one, if the share is above 0."""
    if fraction <= 0 or rows < 2:
        return 0
    return min(MAX_HELD_OUT, max(1, round(rows * fraction)), single, rows - 1)
