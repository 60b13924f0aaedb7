"""General rows that are mixed in against forgetting: how many, and which."""

from __future__ import annotations

import random
from array import array
from collections.abc import Container
from pathlib import Path

from engine.config import DatasetSpec
from engine.datasets.base import Row
from engine.datasets.rows import read_rows
from engine.datasets.split import asked_keys


def wanted_count(rows: int, ratio: float) -> int:
    """How many rows are to be mixed in to `rows` of the data's own, so that they are `ratio` of all."""
    return round(rows * ratio / (1 - ratio))


def mixed_count(rows: int, available: int, ratio: float) -> int:
    """How many rows are mixed in: what is wanted, never more than there are."""
    return min(available, wanted_count(rows, ratio))


def draw(spec: DatasetSpec, rows: int, kept: Container[int], seed: int) -> list[Row]:
    """The rows to mix in to `rows` of the data's own, in the order of their file; none without a file to mix in.

    The file is read twice, so that no more is held than is drawn: 8 bytes for each row that may be, and the rows that
    are. Those that ask what held-out or gold rows ask (`kept`, by `side_key`), be it in an earlier turn, are left out.
    The file may be written in another format than the data: it is detected. Raises `DataError` at the first unusable
    row.
    """
    if not spec.mix_path or not spec.mix_ratio:
        return []
    path = Path(spec.mix_path)
    fit = array("Q", (at for at, row in enumerate(read_rows(path)) if not any(key in kept for key in asked_keys(row))))
    chosen = set(random.Random(seed).sample(fit, mixed_count(rows, len(fit), spec.mix_ratio)))
    return [row for at, row in enumerate(read_rows(path)) if at in chosen]
