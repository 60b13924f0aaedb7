"""Figures over steps, thinned as they arrive: drawing 100,000 steps costs what drawing 1,000 costs."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tui.widgets.braille import Canvas, Dots

CAPACITY = 1024
"""Buckets that are kept at most: two dots to a cell makes this a line 512 cells wide."""


class Series:
    """Lowest and highest figure of each stretch of x; stretches double in length as the series grows.

    x must not fall. A figure that is not finite is counted, not drawn.
    """

    def __init__(self) -> None:
        self._span = 1.0
        self._starts: list[float] = []
        self._lows: list[float] = []
        self._highs: list[float] = []
        self.last: float | None = None
        self.last_x = 0.0
        self.not_finite = 0

    def __len__(self) -> int:
        return len(self._starts)

    def append(self, x: float, y: float) -> None:
        """Add one figure."""
        self.last, self.last_x = y, x
        if not math.isfinite(y):
            self.not_finite += 1
            return
        if self._starts and x < self._starts[-1] + self._span:
            self._lows[-1] = min(self._lows[-1], y)
            self._highs[-1] = max(self._highs[-1], y)
            return
        self._starts.append(x)
        self._lows.append(y)
        self._highs.append(y)
        if len(self._starts) > CAPACITY:
            self._halve()

    def _halve(self) -> None:
        self._span *= 2
        self._lows = [min(self._lows[i : i + 2]) for i in range(0, len(self._lows), 2)]
        self._highs = [max(self._highs[i : i + 2]) for i in range(0, len(self._highs), 2)]
        self._starts = self._starts[::2]

    def buckets(self) -> Iterator[tuple[float, float, float]]:
        """(x, lowest, highest) of each stretch."""
        return zip(self._starts, self._lows, self._highs, strict=True)

    @property
    def first_x(self) -> float:
        """Where the series begins."""
        return self._starts[0] if self._starts else 0.0

    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest figure; None if empty."""
        return (min(self._lows), max(self._highs)) if self._starts else None

    def dots(self, scale: Scale) -> Dots:
        """The series in dots of a canvas, at most one entry to a column."""
        columns: dict[int, tuple[int, int]] = {}
        for x, low, high in self.buckets():
            column, top, bottom = scale.x(x), scale.y(high), scale.y(low)
            seen = columns.get(column, (top, bottom))
            columns[column] = (min(seen[0], top), max(seen[1], bottom))
        return [(column, *rows) for column, rows in columns.items()]


class Scale:
    """From figures to dots: `x_range` and `y_range` onto a canvas of `width` × `height` cells."""

    def __init__(self, width: int, height: int, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self._x0, x1 = x_range
        self._y0, y1 = y_range
        self._right, self._bottom = max(width * 2 - 1, 0), max(height * 4 - 1, 0)
        self._x_factor = self._right / (x1 - self._x0) if x1 > self._x0 else 0.0
        self._y_factor = self._bottom / (y1 - self._y0) if y1 > self._y0 else 0.0

    def x(self, x: float) -> int:
        """The column of dots."""
        return min(max(round((x - self._x0) * self._x_factor), 0), self._right)

    def y(self, y: float) -> int:
        """The row of dots, from the top; what lies outside is drawn at the edge."""
        return min(max(self._bottom - round((y - self._y0) * self._y_factor), 0), self._bottom)


def ticks(low: float, high: float, count: int) -> list[float]:
    """At most about `count` round figures (1, 2, 5 × 10ⁿ apart) within low … high."""
    if count < 1 or not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def sparkline(series: Series, width: int, height: int = 1) -> list[str]:
    """The whole series in braille, without axes, `height` lines of `width` cells."""
    canvas = Canvas(width, height)
    bounds = series.bounds()
    if bounds is not None and width > 0:
        low, high = bounds
        pad = (high - low) * 0.05 or max(abs(high) * 0.5, 1e-9)
        span = (series.first_x, max(series.last_x, series.first_x))
        canvas.trace(series.dots(Scale(width, height, span, (low - pad, high + pad))))
    return canvas.rows()
