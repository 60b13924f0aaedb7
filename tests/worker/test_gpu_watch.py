"""What the worker tells of its GPU: readings, a loss, silence, a sudden slowness, and memory that was taken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import nvml
import pytest
import recorded
import torch

from engine import gpu
from engine.config import StageOptions
from engine.errors import ExitCode, FitError, MissingError
from engine.events import Event, EventTail, EventWriter, Gpu, Step
from engine.gpu import GpuProcess, GpuReading, GpuStatus, Reader
from engine.plan import GpuChoice
from engine.units import GIB
from engine.vram import Budget, Part
from engine.worker import gpu_watch, model, room
from engine.worker.context import Context
from engine.worker.gpu_watch import Watch, watching
from engine.worker.pace import RECENT, Pace, cause

UUID = "GPU-1b9c2f6e-6f0e-4f6a-9a53-0e6f5f1c2d3e"


@pytest.fixture
def context() -> Iterator[Context]:
    """A training stage that was planned for the recorded workstation's card."""
    run = recorded.create()
    card = GpuChoice(uuid=UUID, name="NVIDIA GeForce RTX 4090", total_bytes=24 * GIB, free_bytes=23 * GIB)
    needs = Budget(parts=(Part(name="all", size_bytes=9 * GIB),), available_bytes=22 * GIB)
    plan = recorded.a_plan().model_copy(update={"device": "cuda", "gpu": card, "vram": needs})
    events = EventWriter(run.events)
    yield Context(run, plan, events, StageOptions(), "train")
    events.close()


def told(context: Context, kind: str) -> list[Any]:
    return [event for event in EventTail(context.run.events).poll() if event.kind == kind]


def played(name: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], GpuStatus]:
    """A reading a moment of the recorded machine."""
    machine = nvml.machine(name, monkeypatch)
    reader = Reader(machine, retry_s=0)

    def read() -> GpuStatus:
        status = reader.read()
        machine.pass_on()
        return status

    return read


def test_readings_are_told_while_the_stage_runs(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "read", played("workstation", monkeypatch))
    monkeypatch.setattr(gpu_watch, "INTERVAL_S", 0.01)
    with watching(context):
        end = time.monotonic() + 10
        while len(told(context, "gpu")) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    count = len(told(context, "gpu"))
    time.sleep(0.05)
    readings = told(context, "gpu")
    assert len(readings) == count, "nothing is told after the end"
    assert (readings[0].memory_used_bytes, readings[0].power_w) == (9_336_520_704, 402.113)


def test_of_two_gpus_the_planned_one_is_told(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    read = played("two-gpus", monkeypatch)
    Watch(context, UUID).look(read())
    (reading,) = told(context, "gpu")
    assert reading.name == "NVIDIA GeForce RTX 4090"


@pytest.mark.parametrize("name", ["gpu-lost", "driver-reloaded", "driver-updated-mid-run", "two-gpus-one-lost"])
def test_trouble_is_told_once_and_the_job_is_left_alone(
    context: Context, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    read, watch = played(name, monkeypatch), Watch(context, UUID)
    for _ in range(3):
        watch.look(read())
    findings = [(finding.level, finding.title) for finding in told(context, "finding")]
    assert findings[0] == ("warning", "The GPU cannot be read any more")
    assert findings[1:] in ([], [("ok", "The GPU can be read again")])
    assert told(context, "failed") == []


def test_a_driver_that_hangs_makes_no_old_figures_new(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    status = played("workstation", monkeypatch)()
    watch = Watch(context, UUID)
    for silent_s in (3.0, 20.0, 40.0, 70.0):
        watch.look(status.model_copy(update={"silent_s": silent_s, "problem": "silent"}))
    assert told(context, "gpu") == []
    (finding,) = told(context, "finding")
    assert "stopped answering" in finding.detail


def test_a_stage_that_goes_on_without_its_gpu_is_not_ended(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    read, watch = played("gpu-lost", monkeypatch), Watch(context, UUID)
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("it was ended"))
    for step in recorded.steps(3):
        watch._word_t = float("-inf")
        context.emit(step)
        watch.look(read())
    assert told(context, "failed") == []


WAITING = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import nvml
from engine import gpu
from engine.config import StageOptions
from engine.events import EventWriter
from engine.paths import RunDir
from engine.plan import Plan
from engine.worker import gpu_watch
from engine.worker.context import Context
machine = nvml.Machine("gpu-lost")
gpu.read = gpu.Reader(machine).read
gpu.read()
machine.pass_on()
gpu_watch.INTERVAL_S, gpu_watch.LOST_S = 0.05, 0.3
run, plan = RunDir(Path(sys.argv[2])), Plan.model_validate_json(sys.argv[3])
with gpu_watch.watching(Context(run, plan, EventWriter(run.events), StageOptions(), "train")):
    time.sleep(60)
"""


def test_a_stage_that_waits_for_a_lost_gpu_for_ever_fails_and_names_its_checkpoint(context: Context) -> None:
    recorded.write(context.run, *recorded.started(), *recorded.steps(120))
    tests = str(nvml.FOLDER.parents[1])
    command = [sys.executable, "-c", WAITING, tests, str(context.run.path), context.plan.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == ExitCode.RUN, done.stderr
    (failed,) = told(context, "failed")
    assert failed.title == "The GPU is lost"
    assert "Saved up to step 100" in failed.detail
    assert any("from step 100" in hint for hint in failed.hints)


# memory that was taken between the plan and the loading


def free(monkeypatch: pytest.MonkeyPatch, size: int | None, processes: tuple[GpuProcess, ...] | None = None) -> None:
    card = GpuReading(uuid=UUID, name="RTX 4090", total_bytes=24 * GIB, free_bytes=size, processes=processes)
    monkeypatch.setattr(gpu, "read", lambda: GpuStatus(gpus=(card,)))


def test_memory_that_was_taken_is_refused_with_the_names_of_its_holders(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = (
        GpuProcess(pid=4712, name="ollama", used_bytes=18 * GIB),
        GpuProcess(pid=os.getpid(), name="python3 engine.worker", used_bytes=GIB),
    )
    free(monkeypatch, 4 * GIB, held)
    with pytest.raises(FitError) as caught:
        room.require_room(context)
    assert "9.0 GiB needed, 4.0 GiB of 24.0 GiB free" in caught.value.detail
    hints = "\n".join(caught.value.hints)
    assert "ollama, pid 4712 holds 18.0 GiB" in hints
    assert str(os.getpid()) not in hints


@pytest.mark.parametrize("size", [9 * GIB, 23 * GIB, None])
def test_memory_that_suffices_or_is_not_told_is_not_refused(
    context: Context, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    free(monkeypatch, size)
    room.require_room(context)


def test_a_plan_that_never_fitted_is_not_refused_here(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.plan.gpu is not None
    card = context.plan.gpu.model_copy(update={"free_bytes": 8 * GIB})
    context.plan = context.plan.model_copy(update={"gpu": card})
    free(monkeypatch, 8 * GIB)
    room.require_room(context)


def test_without_a_gpu_in_the_plan_nothing_is_asked(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    context.plan = recorded.a_plan()
    monkeypatch.setattr(gpu, "read", lambda: pytest.fail("it was asked"))
    room.require_room(context)


# pace


def paced(speeds: list[float]) -> list[float]:
    pace = Pace()
    steps = [Step(step=at, steps=999, epoch=0, loss=1, lr=1, tokens_per_s=speed) for at, speed in enumerate(speeds)]
    return [factor for step in steps if (factor := pace.follow(step)) is not None]


def test_ten_times_slower_is_told_once() -> None:
    assert paced([2400.0] * 30 + [240.0] * 200) == [pytest.approx(10)]


def test_it_is_told_again_after_it_went_well() -> None:
    assert len(paced([2400.0] * 30 + [240.0] * 10 + [2400.0] * 10 + [240.0] * 10)) == 2


@pytest.mark.parametrize(
    "speeds",
    [
        [300.0] + [2400.0] * 50,  # the first step chooses kernels
        [2400.0, 1100.0] * 40,  # rows sorted by length
        ([2400.0] * 20 + [200.0]) * 5,  # a checkpoint beside a step
        [240.0] * 50,  # slow from the beginning: nothing to compare with
        [2400.0] * RECENT + [100.0] * 3,
    ],
)
def test_what_is_usual_is_not_told(speeds: list[float]) -> None:
    assert paced(speeds) == []


READING = GpuReading(total_bytes=24 * GIB, used_bytes=10 * GIB, temperature_c=70, utilization=0.9, processes=())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"used_bytes": 24 * GIB - 2**28, "wsl": True}, "Windows uses RAM"),
        ({"used_bytes": 24 * GIB - 2**28}, "memory is full"),
        ({"temperature_c": 91.0}, "91 °C"),
        ({"processes": (GpuProcess(pid=7, name="blender"),)}, "blender (pid 7)"),
        ({"processes": (GpuProcess(pid=8, name="Xorg", kind="graphics"), GpuProcess(pid=9))}, "a process (pid 9)"),
        ({"utilization": 0.05}, "The GPU waits"),
        (
            {"total_bytes": None, "used_bytes": None, "temperature_c": None, "utilization": None, "processes": None},
            "why",
        ),
    ],
)
def test_the_likely_cause_is_named(changes: dict[str, Any], said: str) -> None:
    assert said in cause(READING.model_copy(update=changes), ours=1)


def test_slow_steps_become_a_finding(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    read, watch = played("workstation", monkeypatch), Watch(context, UUID)
    for at, speed in enumerate([2400.0] * 20 + [200.0] * 5, 1):
        context.emit(Step(step=at, steps=99, epoch=0, loss=1, lr=1, tokens_per_s=speed))
    watch.look(read())
    (finding,) = told(context, "finding")
    assert finding.title == "Step 23: training has become 12 times slower"


def test_a_reading_without_figures_is_an_event_without_figures() -> None:
    event: Event = gpu_watch.as_event(GpuReading())
    assert isinstance(event, Gpu)
    assert (event.memory_used_bytes, event.utilization, event.power_w) == (None, None, None)


# the planned GPU and no other


def test_the_worker_sees_the_planned_gpu_only_and_refuses_another(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_DISABLE_TELEMETRY", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for seen, refused in ((UUID.removeprefix("GPU-"), False), ("7d0a4c11-93b2-4d5e-8a77-5b1c3e2f4a60", True)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at, seen=seen: SimpleNamespace(uuid=seen))
        if refused:
            with pytest.raises(MissingError, match="another GPU"):
                model.claim_device(context.plan)
        else:
            assert model.claim_device(context.plan) == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == UUID
