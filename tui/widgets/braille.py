"""Lines drawn in braille: 2 × 4 dots to a cell, in plain Python, so that nothing heavy is imported for them."""

from __future__ import annotations

from collections.abc import Sequence

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

Dots = Sequence[tuple[int, int, int]]
"""For each column of dots in use: (column, lowest row, highest row), rows counted from the top."""


class Canvas:
    """`width` × `height` cells; dots are counted from the top left."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = max(width, 0), max(height, 0)
        self._cells = [bytearray(self.width) for _ in range(self.height)]

    def dot(self, x: int, y: int) -> None:
        """Set one dot; outside of the canvas nothing happens."""
        if 0 <= x < self.width * 2 and 0 <= y < self.height * 4:
            self._cells[y >> 2][x >> 1] |= _BITS[y & 3][x & 1]

    def column(self, x: int, top: int, bottom: int) -> None:
        """Set the dots of one column, both ends included."""
        for y in range(max(top, 0), min(bottom, self.height * 4 - 1) + 1):
            self.dot(x, y)

    def trace(self, points: Dots) -> None:
        """Draw columns from their lowest to their highest dot, joined to one line."""
        before: tuple[int, int] | None = None
        for x, top, bottom in points:
            middle = (top + bottom) // 2
            if before is not None:
                self._join(*before, x, middle)
            self.column(x, top, bottom)
            before = (x, middle)

    def _join(self, x0: int, y0: int, x1: int, y1: int) -> None:
        steps = max(x1 - x0, 1)
        last = y0
        for x in range(x0 + 1, x1 + 1):
            y = round(y0 + (y1 - y0) * (x - x0) / steps)
            # A steep line fills the rows that it passes, but never the row of the dot before.
            low, high = (min(last + 1, y), y) if y > last else (y, max(last - 1, y)) if y < last else (y, y)
            self.column(x, low, high)
            last = y

    def bits(self, column: int, row: int) -> int:
        """The dots of one cell."""
        return self._cells[row][column]

    def rows(self) -> list[str]:
        """The picture, line by line; a cell without a dot is a space."""
        return ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in self._cells]
