"""Run directories as a worker writes them, made with the real writer: what the screens are tested on."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from engine import gpu, plan, presets, runs
from engine.datasets import scan
from engine.events import (
    Check,
    Checkpoint,
    Eval,
    EventWriter,
    Failed,
    Finding,
    Finished,
    Gpu,
    Known,
    Output,
    Phase,
    Progress,
    Sample,
    Score,
    Started,
    Step,
    Stopped,
)
from engine.paths import RunDir

HOSTILE = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m [@click=app.bell]press[/] see [/some/path] \u202egnp.exe\ud800"
"""An escape that writes the clipboard, one that clears the screen, C1, markup, reversed text, a lone surrogate."""


@cache
def _demo() -> plan.Plan:
    preset = presets.find_preset("demo")
    return plan.make_plan(preset, preset.data, scan.scan(preset.data), None, disk_free_bytes=10**11)


def a_plan(slug: str = "support-desk", model: str = "llama-3.1-8b-instruct") -> plan.Plan:
    """The demo's plan under another name, so that lists look like lists."""
    demo = _demo()
    return demo.model_copy(update={"slug": slug, "preset": demo.preset.model_copy(update={"name": model})})


def create(slug: str = "support-desk", model: str = "llama-3.1-8b-instruct") -> RunDir:
    """A planned run that nobody started."""
    return runs.create(a_plan(slug, model))


def write(run: RunDir, *events: Known) -> None:
    """Append events, as the worker would."""
    writer = EventWriter(run.events)
    for event in events:
        writer.write(event)
    writer.close()


def started(stage: str = "train") -> list[Known]:
    """A worker begins a stage."""
    return [
        Started.model_validate({"stage": stage, "pid": 1, "device": "CPU, 2 cores"}),
        Phase.model_validate({"stage": stage, "text": "loading the model to NF4"}),
    ]


def steps(count: int, total: int | None = None, first: int = 1, seed: int = 1) -> Iterator[Known]:
    """Steps with a loss that falls, evaluations at each hundredth, checkpoints and answers with them."""
    noise = random.Random(seed)
    total = total or count
    for step in range(first, count + 1):
        loss = 0.7 + 1.5 * math.exp(-step / 80) + noise.gauss(0, 0.09)
        yield Step(
            step=step,
            steps=total,
            epoch=3 * step / total,
            loss=loss,
            lr=2e-4 * 0.5 * (1 + math.cos(math.pi * step / total)),
            grad_norm=0.4 + noise.random() * 0.3,
            tokens_per_s=2400 + noise.gauss(0, 60),
            step_s=3.1,
            trained_tokens=step * 1800,
        )
        if step % 100 == 0:
            yield Eval(step=step, loss=0.78 + 1.4 * math.exp(-step / 90))
            yield Checkpoint(step=step, path=f"checkpoints/checkpoint-{step}", size_bytes=10**8)
            yield Sample(
                step=step,
                prompt="My invoice shows VAT twice. What now?",
                answer="I'm sorry about that. I have opened case 4411.",
                expected="I'm sorry. I have opened a case.",
            )


def trained(slug: str = "support-desk", model: str = "llama-3.1-8b-instruct", count: int = 300) -> RunDir:
    """A run whose training is done."""
    run = create(slug, model)
    run.adapter.mkdir()
    write(
        run,
        *started(),
        Score(form="base", rows=64, exact=0, stopped=60),
        *steps(count),
        Finding(level="ok", title="healthy", detail="no spikes in 300 steps"),
        Score(form="as trained", rows=64, exact=61, stopped=64),
        Output(stage="train", path="adapter", size_bytes=80_000_000),
        Finished(stage="train", seconds=931.0),
    )
    return run


def certified(slug: str = "demo", model: str = "demo", passed: bool = True) -> RunDir:
    """A run that went through the whole chain."""
    run = trained(slug, model, 240)
    run.gguf("Q4_K_M").write_bytes(b"GGUF")
    run.certificate.write_text("{}")
    write(
        run,
        *started("gguf"),
        Output(stage="gguf", path="model.bf16.gguf", size_bytes=8_000_000),
        Output(stage="gguf", path="model.Q4_K_M.gguf", size_bytes=2_600_000),
        Finished(stage="gguf", seconds=9.0),
        *started("certify"),
        Check(form="Q4_K_M", title="it stops", compared="12 answers", figure="12", limit="12", passed=passed),
        Finished(stage="certify", seconds=8.0),
    )
    return run


def failed(slug: str = "sql-helper", detail: str = "CUDA out of memory: 2.1 GiB wanted, 0.4 GiB free") -> RunDir:
    """A run whose training ended with an error that can be acted on."""
    run = create(slug)
    hints = ("max_length 4096 → 2048 saves 1.9 GiB", "micro_batch_size 4 → 2 saves 1.2 GiB")
    write(run, *started(), *steps(120, 400))
    write(run, Failed(stage="train", title="The GPU has too little memory", detail=detail, hints=hints, exit_code=4))
    return run


def lost(slug: str = "long-context") -> RunDir:
    """A run whose worker vanished: its newest stage runs, and nobody holds the lock."""
    run = create(slug)
    write(run, *started(), *steps(330, 800))
    run.log.write_text("loading checkpoint shards\nstep 329\nstep 330\n")
    return run


def stopped(slug: str = "notes-style") -> RunDir:
    """A run that was asked to stop."""
    run = create(slug)
    write(run, *started(), *steps(210, 600), Stopped(stage="train", step=210, reason="asked to stop"))
    return run


def loading(slug: str = "new-run") -> RunDir:
    """A run that loads its model (to be shown with the lock held)."""
    run = create(slug)
    write(run, *started())
    for done in (1, 9, 17):
        write(run, Progress(stage="train", done=done * 2**28, total=2**33, unit="bytes", label="weights"))
    return run


def training(slug: str = "support-desk-2", count: int = 412, total: int = 1250) -> RunDir:
    """A run in the midst of its training (to be shown with the lock held)."""
    run = create(slug)
    gpu_event = Gpu(name="RTX 4090", memory_used_bytes=9 * 2**30, memory_total_bytes=24 * 2**30, utilization=0.98)
    write(run, *started(), *steps(count, total), gpu_event)
    write(run, Finding(level="ok", title="healthy", detail="no spikes in 200 steps"))
    write(run, Finding(level="warning", title="step 214: a spike", detail="loss 1.9 after 0.8"))
    return run


def hostile() -> RunDir:
    """A run in which each text that comes from outside wants to harm; nothing cleaned it on its way to the disk."""
    run = create("hostile")
    written = json.loads(run.plan.read_text())
    harm = HOSTILE.replace("\ud800", "")  # JSON's reader itself refuses a plan with a lone surrogate
    written["slug"] = f"hostile {harm}"
    written["preset"]["name"] = f"model {harm}"
    run.plan.write_text(json.dumps(written))
    write(
        run,
        *started(),
        *steps(30),
        Sample.model_construct(step=30, prompt=HOSTILE, answer=HOSTILE, expected=HOSTILE),
        Finding.model_construct(level="error", title=HOSTILE, detail=HOSTILE),
        Failed.model_construct(stage="train", title=HOSTILE, detail=HOSTILE, hints=(HOSTILE,)),
    )
    run.log.write_bytes(HOSTILE.encode("utf-8", "replace") + b" \xff\n")
    return run


@contextmanager
def held(run: RunDir) -> Iterator[int]:
    """A child process holds the run's lock, as a worker does; its pid."""
    code = (
        "import fcntl,os,sys,time\n"
        "fd=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\n"
        "fcntl.lockf(fd,fcntl.LOCK_EX)\n"
        "print('held',flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-S", "-c", code, str(run.lock)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def card() -> gpu.GpuStatus:
    """A reading of a graphics card, for screens that show one."""
    reading = gpu.GpuReading(
        uuid="GPU-1",
        name="RTX 4090",
        total_bytes=24 * 2**30,
        used_bytes=9 * 2**30,
        free_bytes=15 * 2**30,
        utilization=0.98,
        temperature_c=71,
        power_w=402,
        power_limit_w=450,
        fan=0.64,
        driver="580.126",
    )
    return gpu.GpuStatus(gpus=(reading,))


def picture(svg: str, path: Path) -> None:
    """A screenshot as PNG, for looking at it."""
    import cairosvg

    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    cairosvg.svg2png(bytestring=svg.encode(), write_to=str(path), output_width=1400)
