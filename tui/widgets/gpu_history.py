"""The last minutes of a GPU: its load, memory, heat and power as short lines on fixed scales."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from engine.events import Gpu
from engine.gpu import GpuReading
from tui.widgets.braille import Canvas
from tui.widgets.series import Scale

WINDOW_S = 300.0
"""What a line shows."""

GAP_S = 10.0
"""Where no reading came for so long, the line is broken: nobody knows what was in between."""

HOTTEST_C, STRONGEST_W = 100.0, 600.0
"""Full scale of the heat, and of the power of a card that does not tell its limit."""

Figure = Literal["load", "VRAM", "heat", "power"]


class Shares(NamedTuple):
    """Each figure as a share of its full scale, 0 to 1; None where it is not told."""

    load: float | None
    memory: float | None
    heat: float | None
    power: float | None

    def of(self, figure: Figure) -> float | None:
        """The share of one figure."""
        return self[("load", "VRAM", "heat", "power").index(figure)]


def shares(gpu: GpuReading) -> Shares:
    """The reading as shares."""
    return Shares(
        gpu.utilization,
        _share(gpu.used_bytes, gpu.total_bytes),
        _share(gpu.temperature_c, HOTTEST_C),
        _share(gpu.power_w, gpu.power_limit_w or STRONGEST_W),
    )


def recorded(event: Gpu) -> GpuReading:
    """What a run's worker told of its GPU, as a reading."""
    return GpuReading(
        used_bytes=event.memory_used_bytes,
        total_bytes=event.memory_total_bytes,
        utilization=event.utilization,
        temperature_c=event.temperature_c,
        power_w=event.power_w,
        power_limit_w=event.power_limit_w,
    )


def _share(figure: float | None, whole: float | None) -> float | None:
    return None if figure is None or not whole else min(max(figure / whole, 0.0), 1.0)


class History:
    """Readings of the last `WINDOW_S`, with the time of each in seconds since the epoch."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, Shares]] = deque()

    def add(self, t: float, gpu: GpuReading) -> None:
        """One more reading; what has become too old is forgotten."""
        self._points.append((t, shares(gpu)))
        while self._points[0][0] < t - WINDOW_S:
            self._points.popleft()

    def add_past(self, events: Iterable[Gpu]) -> None:
        """What was told before the first reading."""
        first = self._points[0][0] if self._points else float("inf")
        before = [(event.t, shares(recorded(event))) for event in events if event.t < first]
        self._points.extendleft(reversed(before))

    def line(self, figure: Figure, now: float, width: int) -> str:
        """The figure over time in `width` cells of braille; now is at the right."""
        canvas = Canvas(width, 1)
        scale = Scale(width, 1, (now - WINDOW_S, now), (0.0, 1.0))
        for stretch in self._stretches(figure, now):
            columns: dict[int, tuple[int, int]] = {}
            for t, share in stretch:
                column, row = scale.x(t), scale.y(share)
                top, bottom = columns.get(column, (row, row))
                columns[column] = (min(top, row), max(bottom, row))
            canvas.trace([(column, *rows) for column, rows in columns.items()])
        return canvas.rows()[0]

    def _stretches(self, figure: Figure, now: float) -> Iterator[list[tuple[float, float]]]:
        stretch: list[tuple[float, float]] = []
        for t, told in self._points:
            share = told.of(figure)
            if t < now - WINDOW_S or share is None:
                continue
            if stretch and t - stretch[-1][0] > GAP_S:
                yield stretch
                stretch = []
            stretch.append((t, share))
        yield stretch
