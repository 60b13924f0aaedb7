"""Rows by their length in tokens, on a logarithmic axis, with the line of `max_length` that can be moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from textual.app import RenderResult
from textual.content import Content
from textual.geometry import Size
from textual.reactive import reactive
from textual.widget import Widget

from engine.datasets.report import Cut, TokenStats
from engine.units import format_share
from tui.widgets.braille import Canvas

AXIS = 1
"""Lines below the picture."""
SHORTEST = 8
"""Tokens where the axis begins at the latest; a chat template alone takes more."""
FEW = 0.005
"""Share of the rows, the shortest, that the axis does not begin with: they stand in its first column."""
LINE = "┊"


class Scale(NamedTuple):
    """From a number of tokens to a column: as far from 64 to 128 as from 1,024 to 2,048."""

    low: float
    high: float
    columns: int

    def column(self, tokens: float) -> float:
        """The column of a length; 0 … columns for what is on the axis."""
        if tokens <= self.low:
            return 0.0
        return self.columns * math.log(tokens / self.low) / math.log(self.high / self.low)

    def tokens(self, column: float) -> float:
        """The length at the left edge of a column."""
        return self.low * math.exp(math.log(self.high / self.low) * column / max(self.columns, 1))


def scale_of(stats: TokenStats, limit: int, columns: int) -> Scale:
    """An axis on which all rows and the limit have their place."""
    low = max(_shortest(stats) / 1.5, SHORTEST)
    return Scale(low, max(stats.longest, limit, 2 * low) * 1.1, columns)


def _shortest(stats: TokenStats) -> float:
    """A length that hardly any row is below, as far as the bins tell."""
    few, below = stats.rows * FEW, 0
    for index, count in enumerate(stats.lengths):
        if count and below + count > few:
            return (index + (few - below) / count) * stats.width
        below += count
    return 0.0


def densities(stats: TokenStats, scale: Scale) -> list[float]:
    """Rows to a column; within a bin they are taken to be spread evenly, in the last one up to the longest row."""
    below = [0, *accumulate(stats.lengths)]
    last = len(stats.lengths) - 1

    def up_to(tokens: float) -> float:
        at = min(int(tokens / stats.width), last)
        begin = at * stats.width
        end = max(stats.longest, begin + 1) if at == last else begin + stats.width
        share = min(max(tokens - begin, 0.0) / (end - begin), 1.0)
        return below[at] + share * stats.lengths[at]

    if last < 0:
        return [0.0] * scale.columns
    edges = [0.0 if column == 0 else up_to(scale.tokens(column)) for column in range(scale.columns + 1)]
    return [right - left for left, right in pairwise(edges)]


def bars(values: Sequence[float], height: int) -> list[str]:
    """Columns of dots, two to a cell and four to a line; whatever is there at all has one dot."""
    canvas = Canvas((len(values) + 1) // 2, height)
    top = max(values, default=0.0)
    for x, value in enumerate(values):
        if value > 1e-9 and top:
            dots = max(round(value / top * height * 4), 1)
            canvas.column(x, height * 4 - dots, height * 4 - 1)
    return canvas.rows()


def axis(scale: Scale, limit: int, width: int) -> Content:
    """Round lengths at their columns; the limit's own stands out, and what would touch it is left out."""
    cells = [" "] * width
    words, at = (f"{LINE} {limit:,}" if limit else ""), min(int(scale.column(limit)), max(width - 1, 0))
    start = at if at + len(words) <= width else max(at - len(words) + 1, 0)
    if start != at:
        words = f"{limit:,} {LINE}"
    taken = range(start - 2, start + len(words) + 2) if limit else range(0)
    free = 0
    for tick in (2**power for power in range(3, 21)):
        text, column = f"{tick:,}", round(scale.column(tick))
        ends = column + len(text)
        if tick < scale.low or ends > width or column < free or not {*range(column, ends)}.isdisjoint(taken):
            continue
        cells[column:ends] = text
        free = ends + 2
    left, right = "".join(cells[:start]), "".join(cells[start + len(words) :])
    return Content.assemble((left, "$quiet"), (words[: width - start], "bold $primary"), (right, "$quiet"))


def describe_cut(stats: TokenStats, limit: int) -> Content:
    """What this limit costs, in words."""
    cut = stats.cut(limit)
    sample = f" of {stats.rows:,} counted" if stats.rows < stats.of_rows else ""
    if not cut.rows and not cut.dropped:
        return Content.assemble(("✓ ", "$success"), f"no row{sample} is cut")
    return Content.assemble(("! ", "$warning"), " · ".join(_costs(stats, cut, sample)))


def _costs(stats: TokenStats, cut: Cut, sample: str) -> list[str]:
    share = f" ({_small_share(cut.rows / stats.rows)})" if stats.rows else ""
    words = [f"{cut.rows:,} {'row' if cut.rows == 1 else 'rows'} cut{share}{sample}"]
    if cut.trained_lost:
        words.append(f"{_small_share(cut.trained_share)} of trained tokens lost")
    if cut.dropped:
        words.append(f"{cut.dropped:,} {'row' if cut.dropped == 1 else 'rows'} left with nothing")
    return words


def _small_share(share: float) -> str:
    """Two figures where a whole per cent would say 0, or 100 of what is not all."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return f"{share:.1%}".replace("%", " %") if 0 < share < 0.1 else format_share(share)


class LengthHistogram(Widget):
    """The picture, the axis, and the limit; as high as its style sheet says."""

    DEFAULT_CSS = "LengthHistogram { height: 4; }"

    stats: reactive[TokenStats | None] = reactive(None)
    limit: reactive[int] = reactive(0)
    """`max_length`; 0 where nothing is cut."""

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:  # noqa: ARG002 - Textual's
        """Three lines of picture where nothing else is said."""
        return 3 + AXIS

    def render(self) -> RenderResult:
        """Columns before the limit in colour, those behind it quiet; the limit is a line through them."""
        size, stats = self.content_size, self.stats
        if stats is None or not stats.rows or size.width < 1 or size.height <= AXIS:
            return Content("")
        scale = scale_of(stats, self.limit, size.width)
        picture = bars(densities(stats, scale._replace(columns=size.width * 2)), size.height - AXIS)
        at = min(int(scale.column(self.limit)), size.width - 1) if self.limit else size.width
        lines = [self._split(row, at) for row in picture]
        return Content("\n").join([*lines, axis(scale, self.limit, size.width)])

    def _split(self, row: str, at: int) -> Content:
        line = LINE if at < len(row) else ""
        return Content.assemble((row[:at], "$tuned"), (line, "bold $primary"), (row[at + 1 :], "$quiet"))
