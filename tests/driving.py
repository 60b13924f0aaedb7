"""Driving the app in tests: wait for what a thread brings about, read the screen as text."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual.app import App
from textual.pilot import Pilot


async def until(pilot: Pilot[Any], true: Callable[[], object], seconds: float = 10) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come about; the screen:\n{text(pilot.app)}"
        await pilot.pause(0.02)


def text(app: App[Any]) -> str:
    """What the screen shows, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)
