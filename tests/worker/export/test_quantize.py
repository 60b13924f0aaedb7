"""quantize: a child that can be stopped within a file, and whose death has a name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import RunError
from engine.worker import gguf
from engine.worker.context import StopRequested
from engine.worker.gguf.quantize import quantize, replies

SLOW = [sys.executable, "-S", "-c", 'import time; print(\'{"done": 1, "total": 9}\', flush=True); time.sleep(60)']


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_a_stop_ends_a_child_that_says_nothing() -> None:
    began = time.monotonic()
    told: list[Any] = []

    def check_stop() -> None:
        if told:
            raise StopRequested

    def follow() -> None:
        for said in replies(SLOW, check_stop):
            told.append(said)

    with pytest.raises(StopRequested):
        follow()
    assert told == [{"done": 1, "total": 9}]
    assert time.monotonic() - began < 10
    assert not children()


def test_a_stop_in_the_middle_leaves_no_file_and_no_child(export: Any, tiny: Any) -> None:
    run = export(base=tiny("llama", hidden=256, initializer_range=0.05))
    gguf.run(run.context("gguf", quants=("bf16",)))
    context = run.context("gguf")
    honest = context.progress

    def stop_at_the_first(done: float, total: float, unit: str = "", label: str = "") -> None:
        honest(done, total, unit, label)
        run.run.stop.touch()

    context.progress = stop_at_the_first
    with pytest.raises(StopRequested):
        gguf._quantize(context, run.run.gguf("bf16"), "Q4_K_M")
    assert [file.name for file in run.run.path.glob("model.*")] == ["model.bf16.gguf"]
    assert not children()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ('print(\'{"error": "code 1; no space"}\'); raise SystemExit(5)', "exit code 5; code 1; no space"),
        ("raise SystemExit('a library is missing')", "exit code 1; a library is missing"),
    ],
)
def test_a_child_that_dies_says_how(code: str, words: str) -> None:
    with pytest.raises(RunError) as error:
        list(replies([sys.executable, "-S", "-c", code], lambda: None))
    assert error.value.detail == words


def test_a_file_that_is_no_model_is_an_error_with_llama_cpp_s_words(tmp_path: Path) -> None:
    (tmp_path / "model.bf16.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    with pytest.raises(RunError, match="could not quantize to Q8_0") as error:
        quantize(tmp_path / "model.bf16.gguf", tmp_path / "out", "Q8_0", lambda _done, _total: None)
    assert error.value.hints


def test_the_child_ends_when_its_worker_is_killed() -> None:
    # The worker: starts a child that only waits for the end of its input, then is killed.
    child = "import engine.worker.quantize as q; print('[]', flush=True); q._end_with_input()"
    worker = (
        "import subprocess, sys; c = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=-1, stdout=-1);"
        "c.stdout.readline(); print(c.pid, flush=True); c.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", worker, child], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        orphan = psutil.Process(int(process.stdout.readline()))
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs([orphan], timeout=10)
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
