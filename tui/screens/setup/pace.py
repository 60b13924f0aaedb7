"""How fast something goes and how long it still takes, in one line."""

from __future__ import annotations

import time

from textual.content import Content

from engine.text import clean_line
from engine.units import format_bytes, format_count, format_duration, format_share

BAR = 12
WIDE = 100
"""Cells from which on there is room for amounts."""
SHORT_S = 0.5
"""Before so many seconds a rate says nothing."""


class Pace:
    """Told of one piece of work after another; each begins when its name is first told."""

    def __init__(self) -> None:
        self._name = ""
        self._began_t = 0.0
        self._first = 0

    def line(self, name: str, done: int, total: int, unit: str, width: int = WIDE) -> Content:
        """`reading ▕████░░▏ 45 % · 512 MiB of 1.1 GiB · 310 MiB/s · 2 s left`; total 0: not known.

        `width`: the cells that there are; where they are few, the amounts are left out, then the bar.
        """
        now = time.monotonic()
        if name != self._name:
            self._name, self._began_t, self._first = name, now, done
        seconds = now - self._began_t
        rate = (done - self._first) / seconds if seconds > SHORT_S else 0.0
        share = [_share(done / total)] if total else []
        amount = [_amount(done, total, unit)] if unit else []
        speed = [f"{_figure(rate, unit)}/s"] if rate > 0 else []
        if rate > 0 and total:
            speed.append(f"{format_duration(max(total - done, 0) / rate)} left")
        bar = _bar(done / total) if total else ""
        shorter = [(bar, share + speed), ("", share + speed)] if total else []
        lines = [
            Content.assemble(clean_line(name), " ", (shown, "$primary"), " · ".join(words))
            for shown, words in [(bar, share + amount + speed), *shorter]
        ]
        return next((line for line in lines if line.cell_length <= width), lines[-1])


def _bar(share: float) -> str:
    full = int(min(max(share, 0.0), 1.0) * BAR)
    return f"▕{'█' * full}{'░' * (BAR - full)}▏ "


def _share(share: float) -> str:
    return format_share(min(share, 1.0))


def _amount(done: int, total: int, unit: str) -> str:
    if unit == "bytes":
        return f"{format_bytes(done)} of {format_bytes(total)}" if total else format_bytes(done)
    return f"{format_count(done)} of {_figure(total, unit)}" if total else _figure(done, unit)


def _figure(count: float, unit: str) -> str:
    return format_bytes(count) if unit == "bytes" else f"{format_count(round(count))} {unit}"
