"""Draw the pictures of README and docs from the recorded demo run: `python scripts/make_pictures.py [--check]`.

`--check` compares with the pictures that are there and fails if a screen has changed since they were drawn.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
RECORDED = ROOT / "tests" / "data" / "runs"
SCREENS = ("home", "setup", "train", "export", "chat")
PRESSES = {"setup": 2, "chat": 1}
"""Enter leads to the plan, which shows no path of this machine; and asks the preset's own question."""
SIZE = (112, 32)
ANSWER_S = 0.025
SETTLED_S = 1.5
"""The feeds look four times a second; by then a screen shows all there is."""


@contextmanager
def anywhere() -> Iterator[None]:
    """A machine like any other: no GPU, 16 GiB of memory, 200 GiB of disk, a minute after the recording ended."""
    from engine import chat, disk, gpu, runs, vram

    piece = chat._piece  # how fast the demo answers differs each time
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(FINETUI_HOME=home, COLORTERM="truecolor", TERM="xterm-256color", TZ="UTC")
        time.tzset()
        shutil.copytree(RECORDED, Path(home) / "runs")
        now = runs.read(runs.find("last")).state.last_t + 60
        without = gpu.GpuStatus(gpus=(), problem="There is no NVIDIA driver.")
        with (
            mock.patch.object(gpu, "read", return_value=without),
            mock.patch.object(vram, "_free_ram", return_value=16 * 2**30),
            mock.patch.object(disk, "free_disk", return_value=200 * 2**30),
            mock.patch.object(time, "time", return_value=now),
            mock.patch.object(chat, "_piece", lambda reply: piece({**reply, "seconds": ANSWER_S})),
        ):
            yield


async def draw(screen: str) -> str:
    """The SVG of one screen, shown over the recorded run."""
    from engine import runs
    from tui.app import FinetuiApp
    from tui.messages import Open

    app = FinetuiApp()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(SETTLED_S)
        if screen != "home":
            app.post_message(Open(screen, None if screen == "setup" else runs.find("last")))  # type: ignore[arg-type]
            await pilot.pause(SETTLED_S)
        for _ in range(PRESSES.get(screen, 0)):
            await pilot.press("enter")
            await pilot.pause(2 * SETTLED_S)
        return stable(app.export_screenshot(title="finetui"))


def stable(svg: str) -> str:
    """The SVG without what differs from run to run: the class prefix that Textual draws at random."""
    return re.sub(r"terminal-\d+-", "terminal-", svg)


def main() -> int:
    """Draw each screen; exit 1 if `--check` finds a picture that is not the screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    with anywhere():
        for screen in SCREENS:
            svg, path = asyncio.run(draw(screen)), PICTURES / f"{screen}.svg"
            if check and (not path.exists() or path.read_text() != svg):
                stale.append(path.name)
            elif not check:
                PICTURES.mkdir(parents=True, exist_ok=True)
                path.write_text(svg)
    if stale:
        print(f"not what the screens show now: {', '.join(stale)} (run: make docs)", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
