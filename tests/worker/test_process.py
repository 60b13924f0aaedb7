"""The worker as a process of its own: signals, a full disk, what it leaves in its log, what it never loads."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.errors import ExitCode
from engine.events import Failed, Finished, Stopped
from engine.paths import RunDir
from engine.worker import train

from .conftest import MakeContext, MakeRun, events_of

pytestmark = pytest.mark.slow

PATCHED = """
import os, signal, sys, types
from engine.worker import __main__ as worker
def run(context):
    {body}
sys.modules["first"] = types.SimpleNamespace(run=run)
sys.modules["second"] = types.SimpleNamespace(run=lambda context: None)
worker.STAGES.update(merge="first", gguf="second")
sys.exit(worker.main())
"""


def start(run: RunDir, stages: str, *command: str, path: Path | None = None) -> subprocess.Popen[bytes]:
    """A worker on the stages; `command` in the place of `-m engine.worker`."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", *(command or ("-m", "engine.worker")), str(run.path), stages],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def work(run: RunDir, body: str, path: Path | None = None) -> int:
    """The exit code of a worker whose stage "merge" is `body`, and whose stage "gguf" does nothing."""
    return start(run, "merge,gguf", "-c", PATCHED.format(body=body), path=path).wait(60)


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 90
    while not true():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_stops_the_training_at_a_saved_step(make_run: MakeRun, number: signal.Signals) -> None:
    run = make_run(max_steps=2000, eval_steps=2000, save_steps=2000, score_rows=0)
    process = start(run, "train,merge")
    until(lambda: events_of(run, "step"))
    process.send_signal(number)
    assert process.wait(60) == ExitCode.INTERRUPTED
    (stopped,) = events_of(run, "stopped")
    assert isinstance(stopped, Stopped)
    assert (run.checkpoints / f"checkpoint-{stopped.step}").is_dir()
    assert len(events_of(run, "started")) == 1
    assert run.log.read_text() == ""  # no bars and no notices: its end is what a lost run shows


def test_a_signal_before_the_first_stage_is_remembered(make_run: MakeRun) -> None:
    run = make_run()
    process = start(run, "train")
    until(run.lock.exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == ExitCode.INTERRUPTED
    assert len(events_of(run, "stopped")) == 1


def test_a_signal_that_a_stage_did_not_heed_stops_the_next(make_run: MakeRun) -> None:
    run = make_run()
    assert work(run, "os.kill(os.getpid(), signal.SIGTERM)") == ExitCode.INTERRUPTED
    (finished,), (stopped,) = events_of(run, "finished"), events_of(run, "stopped")
    assert isinstance(finished, Finished)
    assert isinstance(stopped, Stopped)
    assert (finished.stage, stopped.stage) == ("merge", "gguf")


def test_a_request_to_an_earlier_worker_does_not_stop_this_one(make_run: MakeRun) -> None:
    run = make_run()
    run.stop.touch()
    assert work(run, "context.check_stop()") == ExitCode.DONE


def test_no_code_is_fetched_from_a_hub(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__): raise SystemExit('fetched')\n")
    run = make_run()
    assert work(run, "import kernels", path=tmp_path) == ExitCode.FAULT
    (failed,) = events_of(run, "failed")
    assert isinstance(failed, Failed)
    assert "ModuleNotFoundError" in failed.detail


def test_a_stage_out_of_gpu_memory_ends_with_hints(make_run: MakeRun) -> None:
    run = make_run()
    assert work(run, "import torch; raise torch.OutOfMemoryError('Tried to allocate 2 GiB')") == ExitCode.RUN
    (failed,) = events_of(run, "failed")
    assert isinstance(failed, Failed)
    assert any("nvidia-smi" in hint for hint in failed.hints)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def leave(folder: Path, free: int) -> None:
    """Fill the disk but for `free` bytes."""
    with (folder / "ballast").open("wb") as file:
        file.write(b"\1" * (shutil.disk_usage(folder).free - free))


@pytest.mark.parametrize(("stage", "free"), [("train", 90_000), ("train", 300_000), ("merge", 90_000)])
def test_a_full_disk_costs_nothing_that_was_whole(
    make_run: MakeRun, make_context: MakeContext, small_disk: Path, stage: str, free: int
) -> None:
    whole = make_run(score_rows=0, max_steps=2, save_steps=1)
    train.run(make_context(whole))
    run = RunDir(Path(shutil.copytree(whole.path, small_disk / "run")))
    run.events.unlink()
    shutil.rmtree(run.checkpoints)
    before = {file.name: file.read_bytes() for file in run.adapter.iterdir()}
    leave(small_disk, free)
    assert start(run, stage).wait(90) == ExitCode.FIT, run.log.read_text() + run.events.read_text()[-600:]
    (failed,) = events_of(run, "failed")
    assert isinstance(failed, Failed)
    assert failed.title == "The disk is full"
    assert not list(run.path.rglob("*.partial"))
    assert {file.name: file.read_bytes() for file in run.adapter.iterdir()} == before
