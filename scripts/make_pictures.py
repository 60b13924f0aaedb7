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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
RECORDED = ROOT / "tests" / "data" / "runs"
SIZE = (112, 32)


async def draw(screen: str) -> str:
    """The SVG of one screen, shown over a copy of the recorded run."""
    from engine import runs
    from tui.app import FinetuiApp
    from tui.messages import Open

    app = FinetuiApp()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(1.0)
        if screen != "home":
            app.post_message(Open(screen, None if screen == "setup" else runs.find("last")))  # type: ignore[arg-type]
            await pilot.pause(2.5)
        return stable(app.export_screenshot(title="finetui"))


def stable(svg: str) -> str:
    """The SVG without the class prefix that Textual draws at random, so that equal screens are equal files."""
    found = re.search(r"terminal-(\d+)-", svg)
    return svg.replace(f"terminal-{found.group(1)}-", "terminal-") if found else svg


def main() -> int:
    """Draw each screen; exit 1 if `--check` finds a picture that is not the screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(FINETUI_HOME=home, FINETUI_NO_GPU="1", TZ="UTC", COLORTERM="truecolor", TERM="xterm-256color")
        shutil.copytree(RECORDED, Path(home) / "runs")
        for screen in ("home", "setup", "train", "export", "chat"):
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
