"""Rows that are compared with other rows: exact duplicates, contradictions, and what is held out as well."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from engine.datasets.findings import MAX_PLACES, Finding
from engine.datasets.rowindex import MAX_ROWS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Rows = NDArray[np.intp]

DUPLICATE = Finding(
    "exact-duplicates",
    "warning",
    "exact duplicate",
    "exact duplicates",
    "What is repeated counts more than the rest, and is learned by heart first.",
    "Delete the repetitions if they are not meant: finetui check DATA --fix OUT.jsonl",
    of_row="row repeats an earlier one",
)
CONTRADICTION = Finding(
    "contradictions",
    "warning",
    "prompt has different answers",
    "prompts have different answers",
    "The model learns to guess between them, and certainty where there is none.",
    "Keep one answer to a prompt, unless variety is what it is to learn.",
    of_row="another row answers the same prompt differently",
)
HELD_OUT = Finding(
    "also-held-out",
    "warning",
    "row is also held out",
    "rows are also held out",
    "They are left out of learning, so that the held-out score stays honest.",
    "Nothing needs to be done.",
)
GOLD = Finding(
    "also-gold",
    "warning",
    "row is also in the gold file",
    "rows are also in the gold file",
    "They are left out of learning and of the held-out rows, so that the gold file's score stays honest.",
    "Nothing needs to be done.",
)


class Repeats:
    """Which rows occur again, and which prompts are answered differently: 16 bytes a row, in the index's order."""

    def __init__(self, limit: int = MAX_ROWS) -> None:
        self._limit = limit
        self._prompts = array("Q")
        self._wholes = array("Q")
        self._cut = False

    def extend(self, prompts: Sequence[int], wholes: Sequence[int], at: Sequence[int]) -> None:
        """Take in the fingerprints of rows; what stands between them in the index takes a place as well."""
        room = self._limit - at[0]
        if at[-1] - at[0] + 1 != len(at) or room < len(at):
            for one in zip(prompts, wholes, at, strict=True):
                self._append(*one)
            return
        self._pad(at[0])
        self._prompts.extend(prompts)
        self._wholes.extend(wholes)

    def _append(self, prompt: int, whole: int, at: int) -> None:
        if at >= self._limit:
            self._cut = True
            return
        self._pad(at)
        self._prompts.append(prompt)
        self._wholes.append(whole)

    def _pad(self, rows: int) -> None:
        nothing = bytes(8 * (rows - len(self._wholes)))
        self._prompts.frombytes(nothing)
        self._wholes.frombytes(nothing)

    def duplicates(self) -> Rows:
        """The rows that repeat an earlier one, in order."""
        import numpy as np

        wholes = np.frombuffer(self._wholes, dtype=np.uint64)
        order = np.argsort(wholes, kind="stable")
        inner = wholes[order]
        again = (inner[1:] == inner[:-1]) & (inner[1:] != 0)
        return np.sort(order[1:][again])

    def contradictions(self, ignored: NDArray[np.bool_]) -> Contradictions:
        """The prompts with different answers. Rows that are `ignored` (their prompt says nothing) are left out."""
        import numpy as np

        wholes, prompts = np.frombuffer(self._wholes, np.uint64), np.frombuffer(self._prompts, np.uint64)
        if ignored.any():
            prompts = np.where(ignored[: len(prompts)], np.uint64(0), prompts)
        order = np.argsort(prompts, kind="stable")
        asked = prompts[order]
        again = np.flatnonzero((asked[1:] == asked[:-1]) & (asked[1:] != 0))
        differing = np.unique(asked[again[wholes[order[again]] != wholes[order[again + 1]]]])
        starts, ends = np.searchsorted(asked, differing), np.searchsorted(asked, differing, side="right")
        border = np.zeros(len(asked) + 1, np.int8)
        border[starts] += 1
        border[ends] -= 1
        rows = np.sort(order[np.cumsum(border[:-1], dtype=np.int8) > 0])
        first = np.argsort(order[starts])[:MAX_PLACES]
        groups = [order[start:end] for start, end in zip(starts[first], ends[first], strict=True)]
        firsts = [row for group in groups for row in _one_for_each_answer(group, wholes)]
        return Contradictions(len(differing), rows, firsts[:MAX_PLACES])

    @property
    def among(self) -> str:
        """` among the first 2,000,000 rows`, if there are more than are compared."""
        return f" among the first {self._limit:,} rows" if self._cut else ""


def _one_for_each_answer(rows: Rows, wholes: Hashes) -> list[int]:
    import numpy as np

    found: list[int] = np.sort(rows[np.unique(wholes[rows], return_index=True)[1]]).tolist()
    return found


class Contradictions(NamedTuple):
    """Prompts with different answers."""

    prompts: int
    rows: Rows
    """All rows that ask them, in order."""
    firsts: list[int]
    """The first of them, one row for each answer, prompt by prompt."""
