"""Near duplicates: rows that say the same in almost the same words, found by MinHash in bounded memory.

Each row's text is cut into runs of five words; the share of runs that two rows have in common (their Jaccard
similarity) is estimated from 128 minima each (Broder, 1997). Rows that agree in all minima of one of 21 bands of six
are compared: a pair at 0.8 is met with a probability of 1 - (1 - 0.8⁶)²¹ = 99.8 %.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from engine.datasets.base import Row
from engine.datasets.findings import Finding
from engine.units import format_share

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

MAX_ROWS = 200_000
"""Rows that are compared; each costs 256 bytes of memory."""
SHARE = 0.8
"""Two rows are near duplicates if they share at least so much of their runs of words."""
WORDS = 5
"""Words to a run."""
PERMUTATIONS, BANDS, BAND = 128, 21, 6
ROW_CHARACTERS = 32_768
"""More of a row is not looked at."""
BATCH_CHARACTERS = 1 << 19
PAIRS = 1 << 14
"""Pairs compared at a time, which bounds what the comparison holds."""
SEED = 3407

NEAR = Finding(
    "near-duplicates",
    "warning",
    "near duplicate",
    "near duplicates",
    f"They share at least {format_share(SHARE)} of their runs of {WORDS} words with an earlier row (estimated by "
    "MinHash; system messages are not compared): one idea counts several times.",
    "Delete the repetitions that are not meant. An instruction that all rows share belongs into the system message.",
)

_CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
"""A word; where a script writes none apart, a character."""


class Twin(NamedTuple):
    """The earlier row that a row is like, and about how much of it they share."""

    row: int
    share: float


def text_of(row: Row) -> str:
    """What is compared: everything but the system message, which many rows share on purpose."""
    if row.text:
        return row.text[:ROW_CHARACTERS]
    said = (message["content"] for message in row.messages if message["role"] != "system")
    return "\n".join(said)[:ROW_CHARACTERS]


def runs(text: str) -> list[str]:
    """The text's runs of words; a text of fewer words is one run."""
    words = _WORD.findall(text.lower())
    if len(words) <= WORDS:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[at:] for at in range(WORDS)), strict=False)))


class Sketches:
    """The minima of the rows added so far, at most `capacity`."""

    def __init__(self, capacity: int) -> None:
        import numpy as np

        # The low 16 bits of each minimum: half the memory, and two that differ look the same once in 65,536.
        self._minima = np.zeros((capacity, PERMUTATIONS), np.uint16)
        self._rows: list[int] = []
        self._waiting: list[list[str]] = []
        self._characters = 0

    def add(self, number: int, row: Row) -> None:
        """Add the row with this number; numbers ascend. Rows without a word are like none."""
        text = text_of(row)
        found = runs(text)
        if not found[0]:
            return
        self._rows.append(number)
        self._waiting.append(found)
        self._characters += len(text)
        if self._characters > BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import numpy as np
        from rensa import RMinHash

        if not self._waiting:
            return
        digests = RMinHash.digests_from_token_sets(self._waiting, num_perm=PERMUTATIONS, seed=SEED)
        begin = len(self._rows) - len(self._waiting)
        self._minima[begin : len(self._rows)] = np.array(digests, np.uint32).astype(np.uint16)
        self._waiting, self._characters = [], 0

    def twins(self) -> dict[int, Twin]:
        """Each row that is like an earlier one, and which."""
        import numpy as np

        self._flush()
        minima = self._minima[: len(self._rows)]
        best = np.full(len(minima), len(minima))
        shares = np.zeros(len(minima))
        for later, earlier in _candidates(minima):
            share = (minima[later] == minima[earlier]).mean(axis=1)
            near = (share >= SHARE) & (earlier < best[later])
            best[later[near]], shares[later[near]] = earlier[near], share[near]
        return {
            self._rows[at]: Twin(self._rows[best[at]], float(shares[at])) for at in np.flatnonzero(best < len(minima))
        }


def _candidates(minima: NDArray[np.uint16]) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows that agree in a band, the later one and the earlier one; no later row twice in one array.

    A row is compared with the first row that agrees and with the one before it, so thousands of like rows cost no more
    than as many others.
    """
    import numpy as np

    for band in range(BANDS):
        columns = np.ascontiguousarray(minima[:, band * BAND : (band + 1) * BAND])
        whole = columns.view(np.dtype((np.void, columns.dtype.itemsize * BAND))).ravel()
        _, keys = np.unique(whole, return_inverse=True)
        order = np.argsort(keys, kind="stable")
        begins = np.r_[True, np.diff(keys[order]) != 0] if len(order) else np.empty(0, bool)
        firsts = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        later = ~begins
        for earlier in (firsts[later], order[:-1][later[1:]]):
            for at in range(0, len(earlier), PAIRS):
                yield order[later][at : at + PAIRS], earlier[at : at + PAIRS]
