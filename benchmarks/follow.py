"""What following a long run costs: one poll by offset beside reading the whole log again, at 100,000 steps.

Run: `python benchmarks/follow.py [--steps 100000]`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine.events import EventTail, EventWriter, Step
from engine.state import RunState, fold


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def main() -> None:
    """Write the log, then time both ways of following it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "events.jsonl"
        writer = EventWriter(log)
        for number in range(1, steps + 1):
            writer.write(Step(step=number, steps=steps, epoch=number / steps, loss=1 / number, lr=1e-4))
        tail = EventTail(log)
        state = fold(RunState(), tail.poll())
        polls, folds = [], []
        for number in range(20):
            writer.write(Step(step=steps + number, steps=steps, epoch=1, loss=0.1, lr=1e-4))
            began = time.perf_counter()
            events = tail.poll()
            polled = time.perf_counter()
            fold(state, events)
            polls.append(polled - began)
            folds.append(time.perf_counter() - polled)
        whole = statistics.median(seconds(EventTail(log).poll) for _ in range(3))
        size = log.stat().st_size / 2**20
    poll, folding = statistics.median(polls), statistics.median(folds)
    print(f"{steps:,} steps, {size:.1f} MiB of events")
    print(f"poll by offset   {poll * 1e3:8.2f} ms   and fold {folding * 1e3:.2f} ms")
    print(f"read it all      {whole * 1e3:8.2f} ms")
    print(f"ratio            {whole / (poll + folding):8.0f}")


if __name__ == "__main__":
    main()
