"""Which rows are learned from and which are held out."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.config import DatasetSpec
from engine.datasets.base import Row
from engine.datasets.identity import answer_index, earlier_prompts, fingerprints
from engine.datasets.rows import read_rows
from engine.errors import UsageError
from engine.text import clean_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_HELD_OUT = 500
"""More held-out rows cost evaluation time and tell nothing new."""
MAX_LINKS = 2_000_000
"""Earlier questions of conversations that are looked for among the rows; each costs 16 bytes."""
MAX_LABELS = 1000
"""More different answers than this are no labels."""


def split(spec: DatasetSpec, seed: int) -> tuple[list[Row], list[Row]]:
    """The rows to learn from and the held-out ones, each in its file's order; the same for the same seed.

    Rows that ask the same (see `side_key`) never stand on both sides, so identical ones do not either, nor does a
    conversation in which a row's question is an earlier turn: with a separate file, what it asks is left out of
    learning; without one, they are held out together or not at all. What the gold file asks is on neither side.
    Rows to mix in are drawn by `engine.datasets.mix`, when these are known.

    Raises `DataError` at the first unusable row, `UsageError` if rows are to be stratified whose answers are no labels.
    """
    left_out = {side_key(row) for row in read_gold(spec)}
    first = islice(read_rows(Path(spec.path), spec), spec.max_rows)
    if spec.eval_path:
        held_out = [row for row in read_rows(Path(spec.eval_path), spec) if side_key(row) not in left_out]
        left_out.update(map(side_key, held_out))
        return [row for row in first if left_out.isdisjoint(asked_keys(row))], held_out
    border = Border(spec)
    rows = []
    for row in first:
        if left_out.isdisjoint(asked_keys(row)):
            border.add(side_key(row), row)
            rows.append(row)
    chosen = border.held_out(seed)
    return (
        [row for index, row in enumerate(rows) if index not in chosen],
        [row for index, row in enumerate(rows) if index in chosen],
    )


def read_gold(spec: DatasetSpec) -> Iterator[Row]:
    """The hand-checked rows that are never learned from; none without such a file. Raises as `read_rows` does."""
    return read_rows(Path(spec.gold_path), spec) if spec.gold_path else iter(())


def side_key(row: Row) -> int:
    """What decides on which side of the border a row stands: 64 bits, equal for rows that ask the same.

    A row asks the same as another if everything before its last answer is the same. Raw text asks nothing, and
    neither does a conversation in which nobody speaks before the answer: such rows are the same only if all of it is.
    """
    prompt, whole = fingerprints(row)
    return prompt or whole


def asked_keys(row: Row) -> list[int]:
    """`side_key` of the row, and of the same conversation up to each earlier answer, which is learned as well."""
    return [side_key(row), *earlier_prompts(row)]


def held_out_target(rows: int, fraction: float) -> int:
    """How many of so many rows are to be held out: at least one, if the share is above 0."""
    if fraction <= 0 or rows < 2:
        return 0
    return min(MAX_HELD_OUT, max(1, round(rows * fraction)), rows - 1)


class _Class(NamedTuple):
    """Groups that are alike to the draw: of one label and one size."""

    groups: NDArray[np.intp]
    take: int
    """How many of them are held out; which ones is the seed's choice."""
    size: int
    """Rows in each."""


class Border:
    """Decides what is held out: the check counts by it what training draws. 8 bytes a row, 12 where it stratifies.

    Rows of one key are a group, and a group is held out whole; so is a conversation with the rows that end on one of
    its earlier questions, as they do where a conversation was written out turn by turn. Small groups come first: rows
    that occur once, then pairs, and so on, so that *how many* rows are held out does not depend on the seed, and what
    occurs often is learned. Stratified, each label gets its share by the largest remainder, and always keeps a row to
    learn from; a group of several labels is never held out.
    """

    def __init__(self, spec: DatasetSpec) -> None:
        self._fraction = spec.eval_fraction
        self._stratified = spec.stratify == "label"
        self._keys = array("Q")
        self._links = array("Q")
        """Pairs: an earlier question's key, and the key of the row that it stands in."""
        self._labels = array("I")
        self._numbers: dict[str, int] = {}

    def add(self, key: int, row: Row) -> None:
        """Take in the next row. Raises `UsageError` if rows are stratified by what cannot be labels."""
        self._keys.append(key)
        for earlier in earlier_prompts(row):
            if len(self._links) < 2 * MAX_LINKS:
                self._links.extend((earlier, key))
        if self._stratified:
            self._labels.append(self._numbers.setdefault(label_of(row), len(self._numbers)))
            if len(self._numbers) > MAX_LABELS:
                raise _no_labels(f"the first {len(self._keys):,} rows have more than {MAX_LABELS:,} different ones")

    def count(self) -> int:
        """How many rows are held out, whatever the seed. Raises `UsageError` as `held_out` does."""
        return sum(each.take * each.size for each in self._classes(self._grouped()))

    def held_out(self, seed: int) -> set[int]:
        """The held-out rows, counted from 0. Raises `UsageError` if rows are stratified by what are no labels."""
        import numpy as np

        grouped = self._grouped()
        draw = random.Random(seed)
        chosen = [group for each in self._classes(grouped) for group in draw.sample(each.groups.tolist(), each.take)]
        return set(np.flatnonzero(np.isin(grouped.of_row, chosen)).tolist())

    def _grouped(self) -> _Grouped:
        import numpy as np

        keys = np.frombuffer(self._keys, np.uint64)
        distinct, of_row = np.unique(keys, return_inverse=True)
        if self._links:
            of_row = _joined(distinct, np.frombuffer(self._links, np.uint64).reshape(-1, 2))[of_row]
        sizes = np.bincount(of_row)
        labels = np.frombuffer(self._labels, np.uint32) if self._stratified else np.zeros(len(keys), np.uint32)
        return _Grouped(of_row, sizes, labels.astype(np.intp))

    def _classes(self, grouped: _Grouped) -> list[_Class]:
        import numpy as np

        rows = len(grouped.labels)
        target = held_out_target(rows, self._fraction)
        if not self._stratified:
            return list(_take(np.arange(len(grouped.sizes)), grouped.sizes, target))
        if rows < 2 * len(self._numbers):
            raise _no_labels(f"{rows:,} rows have {len(self._numbers):,} different ones")
        pure = grouped.pure_labels()
        quotas = _quotas(np.bincount(grouped.labels), target)
        return [
            each
            for label, quota in enumerate(quotas)
            for each in _take(np.flatnonzero(pure == label), grouped.sizes, quota)
        ]


class _Grouped(NamedTuple):
    of_row: NDArray[np.intp]
    """(rows,) the group of each row."""
    sizes: NDArray[np.intp]
    """(groups,) rows in each."""
    labels: NDArray[np.intp]
    """(rows,) the label of each row."""

    def pure_labels(self) -> NDArray[Any]:
        """(groups,) the label of each group; -1 where its rows have several."""
        import numpy as np

        highest = np.full(len(self.sizes), -1)
        np.maximum.at(highest, self.of_row, self.labels)
        lowest = np.full(len(self.sizes), len(self.labels))
        np.minimum.at(lowest, self.of_row, self.labels)
        return np.where(highest == lowest, highest, -1)


def _joined(keys: NDArray[np.uint64], links: NDArray[np.uint64]) -> NDArray[np.intp]:
    """(keys,) the group of each of the sorted keys, where those that are linked are in one."""
    import numpy as np

    ends = np.searchsorted(keys, links).clip(max=len(keys) - 1)
    one, other = ends[(keys[ends] == links).all(axis=1)].T
    group = np.arange(len(keys))
    while (differ := group[one] != group[other]).any():  # each passes the lower number on, and takes that one's own
        low = np.minimum(group[one], group[other])[differ]
        np.minimum.at(group, group[one][differ], low)
        np.minimum.at(group, group[other][differ], low)
        group = group[group]
    found: NDArray[np.intp] = np.unique(group, return_inverse=True)[1]
    return found


def _take(groups: NDArray[np.intp], sizes: NDArray[np.intp], quota: int) -> Iterator[_Class]:
    """Classes of the groups, small ones first, as long as whole groups fit into the quota of rows."""
    import numpy as np

    for size in np.unique(sizes[groups]).tolist():
        if size > quota:
            return
        alike = groups[sizes[groups] == size]
        take = min(len(alike), quota // size)
        yield _Class(alike, take, size)
        quota -= take * size


def _quotas(counts: NDArray[np.intp], target: int) -> list[int]:
    """Held-out rows for each label: its share of the target, rounded by the largest remainder.

    So each is within one row of its exact share, and below the label's own count: one row is left to learn from.
    """
    import numpy as np

    exact = counts * (target / max(counts.sum(), 1))
    quotas = np.floor(exact).astype(int)
    larger = np.argsort(quotas - exact, kind="stable")  # the largest remainder first
    larger = larger[(quotas < counts - 1)[larger]]
    quotas[larger[: target - quotas.sum()]] += 1
    found: list[int] = np.minimum(quotas, counts - 1).tolist()
    return found


def label_of(row: Row) -> str:
    """The last answer on one line: what rows are stratified by. Raises `UsageError` for raw text, which has none."""
    if not row.messages:
        raise _no_labels("the rows are raw text")
    return clean_line(row.messages[answer_index(row.messages)]["content"])


def _no_labels(detail: str) -> UsageError:
    return UsageError(
        "The held-out rows cannot be stratified: the answers are no labels",
        detail,
        ("--set data.stratify=none", "stratify=label is for classification: few answers, each of them often."),
    )
