"""Loss over steps: each step's, smoothed, and on held-out rows, with the best one marked."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from engine.events import Eval, Step
from tui.widgets.braille import Canvas
from tui.widgets.series import Scale, Series, ticks

WINDOW, SHARE = 20, 1 / 20
"""The smoothed line looks back over about so many steps, in a short run over this share of its length."""

LOOK_BACK = 200
"""Steps behind which the past weighs nothing in a smoothed figure: ten windows."""

ROBUST = 0.05
"""Share of the highest points that may leave the picture, where the rest then has twice the room at least."""

RAW, SMOOTH, EVAL, BEST, AXIS = "$tuned 45%", "$tuned", "$foreground", "$success", "$quiet"
LABEL_WIDTH = 6


def past_weight(length: int) -> float:
    """Weight of the past in the smoothed line of a run of so many steps."""
    return 1 - 1 / max(1.0, min(WINDOW, length * SHARE))


def smoothed(steps: Sequence[Step]) -> float | None:
    """The newest loss, smoothed: the one figure by which a run is told, in the list and in the legend."""
    mean = weight = 0.0
    for step in steps[-LOOK_BACK:]:
        if math.isfinite(step.loss):
            past = past_weight(step.steps)
            mean, weight = past * mean + (1 - past) * step.loss, past * weight + 1 - past
    return mean / weight if weight else None


class Losses:
    """The lines of the chart, kept thinned; told the whole past each time, it adds only what is new."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.raw, self.smooth = Series(), Series()
        self._count, self._newest = 0, None
        self._mean, self._weight = 0.0, 0.0

    _count: int
    _newest: Step | None

    def follow(self, steps: Sequence[Step]) -> None:
        """Take the steps so far. After a resume some come again: then the lines are drawn anew."""
        if self._count and (len(steps) < self._count or steps[self._count - 1] is not self._newest):
            self.clear()
        for step in steps[self._count :]:
            self._add(step)
        self._count, self._newest = len(steps), steps[-1] if steps else None

    def _add(self, step: Step) -> None:
        self.raw.append(step.step, step.loss)
        if math.isfinite(step.loss):
            past = past_weight(step.steps)
            self._mean = past * self._mean + (1 - past) * step.loss
            self._weight = past * self._weight + 1 - past
            self.smooth.append(step.step, self._mean / self._weight)


class LossChart(Widget):
    """The chart with axes, legend and last values; `steps` and `evals` are those of a run's state."""

    steps: reactive[Sequence[Step]] = reactive((), always_update=True, repaint=False)
    evals: reactive[Sequence[Eval]] = reactive(())
    empty: reactive[str] = reactive("no steps yet")

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._losses = Losses()

    def watch_steps(self, steps: Sequence[Step]) -> None:
        """Add what is new."""
        self._losses.follow(steps)
        self.refresh()

    def render(self) -> RenderResult:
        """Legend, picture, axes."""
        width, height = self.content_size
        if height < 1 or width < 8:
            return Content("")
        head = self._legend(width)
        rows = height - 3  # legend, axis, labels
        if rows < 2 or not (len(self._losses.raw) or self.evals):
            hint = Content.styled(self.empty, AXIS) if not len(self._losses.raw) else Content("")
            return Content("\n").join([head, hint])
        return Content("\n").join([head, *self._picture(width - LABEL_WIDTH - 1, rows)])

    def _legend(self, width: int) -> Content:
        _, (_, top) = self._ranges()
        highest = max(self._figures(), default=0.0)
        above = f", up to {highest:.2f}" if highest > top else ""
        parts = [Content.styled(f"loss{above}", AXIS)]
        now = smoothed(self.steps)
        if now is not None:
            parts.append(Content.assemble(("⠤⠒ ", SMOOTH), f"train {now:.3f}"))
        if self._losses.raw.not_finite:
            parts.append(Content.styled(f"✗ {self._losses.raw.not_finite} not finite", "$error"))
        best = min(self.evals, key=lambda seen: seen.loss, default=None)
        if best is not None:
            parts.append(Content.assemble(("◆ ", EVAL), f"eval {self.evals[-1].loss:.3f}"))
            parts.append(Content.assemble(("★ ", BEST), f"best {best.loss:.3f}"))
            whole = Content("   ").join([*parts[:-1], Content.assemble(parts[-1], f" at step {best.step}")])
            if whole.cell_length <= width:  # else the star in the picture is left to say where
                return whole
        return Content("   ").join(parts).truncate(width, ellipsis=True)

    def _figures(self) -> list[float]:
        """Every height that is to be drawn; the smoothed line lies between the single steps."""
        points = [figure for _, low, high in self._losses.raw.buckets() for figure in (low, high)]
        return points + [seen.loss for seen in self.evals if math.isfinite(seen.loss)]

    def _ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        figures = sorted(self._figures()) or [0.0, 1.0]
        low, high = figures[0], figures[-1]
        # The first steps, or one spike, must not flatten all the rest to a line at the bottom.
        robust = figures[math.ceil(len(figures) * (1 - ROBUST)) - 1]
        if robust - low < (high - low) / 2 and robust > low:
            high = robust
        pad = (high - low) * 0.04 or 0.05
        last = max(self._losses.raw.last_x, self.evals[-1].step if self.evals else 0)
        return (0.0, max(last, 1.0)), (max(low - pad, 0.0), high + pad)

    def _picture(self, width: int, rows: int) -> list[Content]:
        x_range, y_range = self._ranges()
        scale = Scale(width, rows, x_range, y_range)
        raw, smooth = Canvas(width, rows), Canvas(width, rows)
        raw.trace(self._losses.raw.dots(scale))
        smooth.trace(self._losses.smooth.dots(scale))
        marks = self._marks(scale)
        labels = _y_labels(scale, y_range, rows)
        lines = [_line(labels.get(row), raw, smooth, marks, row) for row in range(rows)]
        return [*lines, *_x_axis(scale, x_range, width)]

    def _marks(self, scale: Scale) -> dict[tuple[int, int], tuple[str, str]]:
        best = min(self.evals, key=lambda seen: seen.loss, default=None)
        marks: dict[tuple[int, int], tuple[str, str]] = {}
        for seen in self.evals:
            if math.isfinite(seen.loss):
                cell = (scale.x(seen.step) >> 1, scale.y(seen.loss) >> 2)
                if marks.get(cell, ("", ""))[1] != BEST:
                    marks[cell] = ("★", BEST) if seen is best else ("◆", EVAL)
        return marks


def _y_labels(scale: Scale, y_range: tuple[float, float], rows: int) -> dict[int, str]:
    """Row → label: three at least where there are as many rows, six at most."""
    wanted = max(3, min(rows // 2, 6))
    values: list[float] = []
    for count in range(wanted, 4 * wanted):  # round figures are few: a finer step until enough of them are within
        values = ticks(*y_range, count)
        if len({scale.y(value) >> 2 for value in values}) >= min(3, rows):
            break
    digits = 0 if y_range[1] >= 100 else _digits(values)
    return {scale.y(value) >> 2: f"{value:.{digits}f}" for value in values}


def _digits(values: Sequence[float]) -> int:
    """Decimals that tell neighbouring labels apart; one at least."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    return max(1, -math.floor(math.log10(step) + 1e-9))


def _line(
    label: str | None, raw: Canvas, smooth: Canvas, marks: dict[tuple[int, int], tuple[str, str]], row: int
) -> Content:
    parts: list[tuple[str, str]] = [(f"{label or '':>{LABEL_WIDTH}}{'┤' if label else '│'}", AXIS)]
    for column in range(raw.width):
        mark = marks.get((column, row))
        if mark is None:
            # Braille has one colour to a cell: where both lines meet, the smoothed one is on top.
            top = smooth.bits(column, row)
            bits = top or raw.bits(column, row)
            mark = (chr(0x2800 + bits), SMOOTH if top else RAW) if bits else (" ", "")
        if parts[-1][1] == mark[1]:
            parts[-1] = (parts[-1][0] + mark[0], mark[1])
        else:
            parts.append(mark)
    return Content.assemble(*parts)


def _x_axis(scale: Scale, x_range: tuple[float, float], width: int) -> list[Content]:
    """The axis with a tick at each label, and the labels below; the last one carries the unit."""
    axis, labels = ["─"] * width, [" "] * (width + LABEL_WIDTH)
    free_from, unit = 0, "step"
    for value in ticks(*x_range, max(1, width // 14)):
        text = f"{value:,.0f}"
        column = scale.x(value) >> 1
        start = max(column - len(text) // 2, 0)
        if start >= free_from and start + len(text) < width - len(unit) and value == round(value):
            axis[column] = "┬"
            labels[start : start + len(text)] = text
            free_from = start + len(text) + 2
    if width - free_from > len(unit):
        labels[width - len(unit) : width] = unit
    edge = " " * LABEL_WIDTH
    return [
        Content.styled(f"{edge}└{''.join(axis)}", AXIS),
        Content.styled(f"{edge} {''.join(labels).rstrip()}", AXIS),
    ]
