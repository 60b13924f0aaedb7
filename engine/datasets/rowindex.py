"""Where each row of a file stands and what was found about it, in 24 bytes a row: what the row browser asks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ROWS = 2_000_000
"""Rows that are known by their place (and compared with each other); each costs 24 bytes here."""

MAX_KINDS = 64


class RowIndex:
    """Every row of a file, counted from 0 (blank lines do not count, unusable rows do), with its findings as bits.

    A scan fills it; token statistics and the search for near duplicates add their own kinds with `flag`.
    Rows behind the first `limit` are not known. Not safe to use from two threads at once.
    """

    def __init__(self, limit: int = MAX_ROWS) -> None:
        self.limit = limit
        self._lines = array("Q")
        self._offsets = array("Q")
        self._masks = array("Q")
        self._bits: dict[str, int] = {}
        self._said: list[str] = []

    def __len__(self) -> int:
        """Rows known."""
        return len(self._lines)

    def extend(self, lines: Sequence[int], offsets: Sequence[int]) -> None:
        """Add rows in the file's order; what is behind the limit is left out."""
        room = self.limit - len(self)
        if room < len(lines):
            lines, offsets = lines[:room], offsets[:room]
        self._lines.extend(lines)
        self._offsets.extend(offsets)
        self._masks.frombytes(bytes(8 * len(lines)))

    def flag(self, rows: Iterable[int], kind: str, said: str) -> None:
        """Mark rows with a finding; `said` is what is said of one such row. Unknown rows are passed over."""
        bit, known, masks = self._bit(kind, said), len(self), self._masks
        for row in rows:
            if row < known:
                masks[row] |= bit

    def clear(self, kind: str) -> None:
        """Take back a finding from all rows."""
        import numpy as np

        if kind in self._bits:
            masks = np.frombuffer(self._masks, dtype=np.uint64)
            masks &= np.uint64(~self._bits[kind] & (2**MAX_KINDS - 1))

    def marked(self, kind: str) -> NDArray[np.bool_]:
        """(rows,) True where a row has a finding of that kind."""
        import numpy as np

        masks = np.frombuffer(self._masks, dtype=np.uint64)
        marked: NDArray[np.bool_] = (masks & np.uint64(self._bits.get(kind, 0))) != 0
        return marked

    def line(self, row: int) -> int:
        """Where the row begins, counted from 1. Raises `IndexError`."""
        return self._lines[row]

    def offset(self, row: int) -> int:
        """The bookmark for `Reader.at`. Raises `IndexError`."""
        return self._offsets[row]

    def kinds(self, row: int) -> tuple[str, ...]:
        """The kinds of the findings that a row has. Raises `IndexError`."""
        return tuple(kind for kind, bit in self._bits.items() if self._masks[row] & bit)

    def findings(self, row: int) -> tuple[str, ...]:
        """The same in words. Raises `IndexError`."""
        mask = self._masks[row]
        return tuple(said for at, said in enumerate(self._said) if mask >> at & 1)

    def next_finding(self, row: int, back: bool = False) -> int | None:
        """The next row with a finding behind (or before) `row`; -1 begins at the front. None if there is none."""
        import numpy as np

        marked = np.frombuffer(self._masks, dtype=np.uint64) != 0
        if back:
            before = marked[: max(0, row)][::-1]
            return row - 1 - int(before.argmax()) if before.any() else None
        after = marked[row + 1 :]
        return row + 1 + int(after.argmax()) if after.any() else None

    def _bit(self, kind: str, said: str) -> int:
        if kind not in self._bits:
            if len(self._bits) == MAX_KINDS:
                raise ValueError(f"more than {MAX_KINDS} kinds of findings")
            self._bits[kind] = 1 << len(self._bits)
            self._said.append(said)
        return self._bits[kind]
