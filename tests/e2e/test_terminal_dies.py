"""A real training of the demo, started in a terminal that then dies, goes on and can be stopped and resumed."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import runs
from engine.paths import RunDir
from engine.state import Status

FINETUI = str(Path(sys.executable).with_name("finetui"))


def wait_for(what: str, condition: Callable[[], object], seconds: float = 90) -> None:
    """Return as soon as the condition holds; fail with the words if it does not in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


def steps_of(run: RunDir) -> int:
    last = runs.read(run).state.last_step
    return last.step if last else 0


def start_in_a_terminal() -> tuple[int, int]:
    """`finetui train --preset demo` as the leader of its own terminal; its pid and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(FINETUI, [FINETUI, "train", "--preset", "demo"])
    return pid, terminal


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_training_outlives_its_terminal_stops_gracefully_and_resumes() -> None:
    pid, terminal = start_in_a_terminal()
    wait_for("a run appears", runs.list_runs)
    run = runs.find("last")
    wait_for("the first step", lambda: steps_of(run) >= 1)

    os.close(terminal)  # the terminal dies: SIGHUP to everything in it
    os.waitpid(pid, 0)
    seen = steps_of(run)
    assert runs.lock_holder(run) is not None
    wait_for("training goes on", lambda: steps_of(run) > seen + 2)

    stop = subprocess.run([FINETUI, "stop", "last", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(stop.stdout)
    wait_for("it has stopped", lambda: runs.read(run).status is Status.STOPPED)
    checkpoint = runs.read(run).state.checkpoints[-1]
    assert checkpoint.step == steps_of(run)
    assert not run.adapter.exists()

    subprocess.run([FINETUI, "resume", "last", "--detach"], check=True, capture_output=True)
    wait_for("it goes on after the checkpoint", lambda: steps_of(run) > checkpoint.step)
    steps = [step.step for step in runs.read(run).state.steps]
    assert steps == list(range(1, len(steps) + 1))  # one unbroken curve
    worker = runs.lock_holder(run)
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    wait_for("a killed worker is lost", lambda: runs.read(run).status is Status.LOST)
