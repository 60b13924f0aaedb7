"""Seconds from starting `finetui` to its first painted screen, in a real pseudo-terminal, beside the floor.

The floor is a Python process that only imports Textual's App: what no Textual program can go below.
Run: `python benchmarks/startup.py [--runs 9]`. Prints medians and the ratio of both, measured in turn.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

FINETUI = [str(Path(sys.executable).with_name("finetui"))]
FLOOR = [sys.executable, "-c", "import textual.app; print('finetui')"]
TIMEOUT_S = 20.0


def seconds_until(command: list[str], mark: bytes, home: str) -> float:
    """Seconds from the start of the command to the first sight of `mark` in what it draws on a 120×40 terminal."""
    began = time.perf_counter()
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(FINETUI_HOME=home, TERM="xterm-256color", COLORTERM="truecolor")
        os.execv(command[0], command)  # noqa: S606 - a fixed command of ours
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    seen = b""
    try:
        while mark not in seen:
            ready, _, _ = select.select([fd], [], [], TIMEOUT_S)
            if not ready:
                raise SystemExit(f"{command[0]} drew nothing within {TIMEOUT_S:.0f} s: {seen[-200:]!r}")
            seen += os.read(fd, 65536)
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(fd)


def main() -> None:
    """Measure both in turn and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    app, floor = [], []
    with tempfile.TemporaryDirectory() as home:
        for number in range(arguments.runs + 1):
            first_paint = seconds_until(FINETUI, b"finetui", home)
            imported = seconds_until(FLOOR, b"finetui", home)
            if number:  # the first round warms the disk cache
                app.append(first_paint)
                floor.append(imported)
    ratio = statistics.median(a / b for a, b in zip(app, floor, strict=True))
    spread = f"(min {min(app) * 1000:.0f}, max {max(app) * 1000:.0f})"
    print(f"first paint         {statistics.median(app) * 1000:4.0f} ms  {spread}")
    print(f"import textual.app  {statistics.median(floor) * 1000:4.0f} ms")
    print(f"ratio               {ratio:.2f}")
    print(subprocess.run([*FINETUI, "--version"], capture_output=True, text=True, check=False).stdout.strip())


if __name__ == "__main__":
    main()
