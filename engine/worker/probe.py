"""Before the first step: the longest batch goes forward and backward, and its peak is held against the ledger.

If it does not fit, the planner is asked again with what was measured, and training goes on with a smaller micro-batch
or another checkpointing policy and the same effective batch. The probe changes no weight, no random number, and makes
no optimizer; what it saw is kept for the next plan.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple, Protocol

import numpy as np

from engine import calibration, gpu, planner
from engine.calibration import Measurement
from engine.config import Preset
from engine.datasets.report import TokenStats
from engine.errors import RunError
from engine.estimate import training_flop
from engine.events import EventTail, Probe, Step
from engine.gpu import GpuReading
from engine.plan import GpuChoice, budget_hints
from engine.runs import load_plan
from engine.text import clean_line
from engine.units import format_bytes
from engine.vram import CUDA_CONTEXT_BYTES, UNMEASURED, Budget, Correction, apply, ledger, split
from engine.worker.context import Context
from engine.worker.faults import is_gpu_full

WIDTH = 64
"""Tokens to a bin of the rows' lengths."""

TOO_LITTLE = 1.05
"""After the GPU was full nobody knows how much more it would have taken: so many times what there was is assumed."""

Pass = Callable[[Preset], None]
"""Goes forward and backward over the longest batch under a preset's settings and keeps the gradients."""


class Meter(Protocol):
    """What a device says of its memory, in bytes."""

    def loaded(self) -> int:
        """Of tensors now; what was the most so far is forgotten."""
        ...

    def most(self) -> tuple[int, int]:
        """Since then the most of tensors, and the most that the allocator held."""
        ...

    def room(self) -> int:
        """What the allocator may hold in all: what it has, and what is free."""
        ...

    def context(self) -> int | None:
        """What the process takes beside the allocator; None if nobody tells."""
        ...

    def release(self) -> None:
        """Drop the gradients, and give back what the allocator holds without need."""
        ...


class CudaMeter:
    """The GPU that this process sees."""

    def __init__(self, model: Any, uuid: str) -> None:
        self._model, self._uuid = model, uuid

    def loaded(self) -> int:
        """See `Meter`."""
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def most(self) -> tuple[int, int]:
        """See `Meter`."""
        import torch

        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()

    def room(self) -> int:
        """See `Meter`."""
        import torch

        return int(torch.cuda.mem_get_info()[0]) + torch.cuda.memory_reserved()

    def context(self) -> int | None:
        """See `Meter`; the driver counts the process, context and allocator together."""
        import torch

        seen = gpu.read().find(self._uuid)
        ours = next((one for one in (seen and seen.processes) or () if one.pid == os.getpid()), None)
        if ours is None or ours.used_bytes is None:
            return None
        return max(ours.used_bytes - torch.cuda.memory_reserved(), 0) or None

    def release(self) -> None:
        """See `Meter`."""
        import torch

        self._model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()


class Bench(NamedTuple):
    """What is measured on."""

    card: GpuReading
    lengths: TokenStats
    """Of the prepared rows."""
    run: Pass
    meter: Meter


class Trial(NamedTuple):
    """One longest batch under one choice of settings."""

    preset: Preset
    event: Probe
    found: Measurement | None
    """None: the GPU was full."""
    correction: Correction
    """What the next choice has to reckon with."""


def settle(
    preset: Preset, bench: Bench, known: Correction, fixed: Collection[str], tell: Callable[[Trial], None]
) -> Trial:
    """Measure, and choose and measure again until it fits; each trial is told.

    `known` is what the plan was corrected by. `fixed` settings, the length of a row and the effective batch stay.
    Raises `RunError` with the changes that `advise` finds if nothing that is left to choose fits.
    """
    tried: list[Preset] = []
    now = preset
    while True:
        trial = measured(now, bench, known)
        tell(trial)
        if trial.event.fits:
            return trial
        tried.append(now)
        known = trial.correction
        free = bench.card.model_copy(update={"free_bytes": trial.event.available_bytes})
        now = planner.choose(now, free, fixed=fixed, tokens=bench.lengths, correction=known).preset
        if now in tried:
            raise _too_large(trial, free, bench.lengths.longest)


def measured(now: Preset, bench: Bench, known: Correction) -> Trial:
    """One trial of the settings of `now`, twice over the longest batch: the second pass has the gradients in memory."""
    longest, meter = bench.lengths.longest, bench.meter
    predicted = ledger(now, bench.card, known, longest)
    optimizer = sum(part.size_bytes for part in predicted.parts if part.name == "optimizer")
    meter.release()
    found = _measurement(now, bench, predicted)
    meter.release()
    room = meter.room()
    outside = found.context_bytes if found is not None and found.context_bytes else CUDA_CONTEXT_BYTES
    event = Probe(
        rows=now.train.micro_batch_size,
        length=longest,
        predicted_bytes=predicted.needed_bytes,
        measured_bytes=None if found is None else found.measured_bytes + optimizer,
        available_bytes=room + outside,
        fits=found is not None and found.reserved_bytes + optimizer <= room,
    )
    return Trial(now, event, found, _corrected(now, bench, found, room, known))


def _measurement(now: Preset, bench: Bench, predicted: Budget) -> Measurement | None:
    loaded = _pass_twice(now, bench.run, bench.meter)
    if loaded is None:
        return None
    allocated, reserved = bench.meter.most()
    return calibration.measurement(
        now,
        bench.card,
        predicted.parts,
        length=bench.lengths.longest,
        loaded_bytes=loaded,
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        context_bytes=bench.meter.context(),
    )


def _pass_twice(now: Preset, run: Pass, meter: Meter) -> int | None:
    """What was loaded before the second pass; None if the GPU was full in either."""
    try:
        run(now)
        loaded = meter.loaded()
        run(now)
    except RuntimeError as error:
        if not is_gpu_full(error):
            raise
        return None
    return loaded


def _corrected(now: Preset, bench: Bench, found: Measurement | None, room: int, known: Correction) -> Correction:
    """What the measurement says to the ledger; where there is none to believe, that it takes more than there is."""
    told = UNMEASURED if found is None else calibration.correction(now, bench.card, [found])
    if told.measured:
        return told
    resident, moving = split(now, longest=bench.lengths.longest)
    least = TOO_LITTLE * (room - resident) / max(moving, 1)
    return known.model_copy(update={"activations": max(known.activations * TOO_LITTLE, least)})


def differing(planned: Preset, now: Preset) -> dict[str, str]:
    """The settings that are trained with otherwise than planned, as `presets.override` takes them."""
    before, after = planned.train.model_dump(), now.train.model_dump()
    keys = [name.partition(".")[2] for name in planner.CHOSEN]
    return {f"train.{key}": str(after[key]).lower() for key in keys if before[key] != after[key]}


def _too_large(trial: Trial, free: GpuReading, longest: int) -> RunError:
    budget = ledger(trial.preset, free, trial.correction, longest)
    hints = budget_hints(trial.preset, free, budget, trial.correction, longest)
    return RunError("The longest batch does not fit into the GPU's memory", _figures(trial.event), hints)


def _figures(event: Probe) -> str:
    full = event.measured_bytes is None
    took = "the GPU was full" if full else f"{format_bytes(event.measured_bytes)} measured"
    expected, room = format_bytes(event.predicted_bytes), format_bytes(event.available_bytes)
    return f"{event.rows} × {event.length:,} tokens: {took}, {expected} predicted, {room} available"


def lengths_of(lengths: Sequence[int], max_length: int) -> TokenStats:
    """The lengths of the prepared rows, as the planner takes them."""
    counted = np.asarray(lengths, dtype=np.int64)
    bins = np.bincount(np.maximum(counted - 1, 0) // WIDTH)
    return TokenStats(
        tokenizer="",
        rows=len(counted),
        of_rows=len(counted),
        max_length=max_length,
        tokens=int(counted.sum()),
        trained=0,
        longest=int(counted.max()),
        median=int(np.median(counted)),
        p95=int(np.percentile(counted, 95)),
        truncated=0,
        lost=0,
        dropped=0,
        width=WIDTH,
        lengths=tuple(map(int, bins)),
    )


def longest_rows(lengths: Sequence[int], rows: int) -> list[int]:
    """Where the longest `rows` rows are; of too few rows some come again."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[number % len(order)] for number in range(rows)]


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """The random numbers, the gradients and the mode of the model are afterwards what they were before."""
    import torch

    training, numbers, arrays = model.training, random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():  # of the CPU and of every GPU
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)
        model.zero_grad(set_to_none=True)
        model.train(training)


# ── in a run ─────────────────────────────────────────────────────────────────────────────────────────────


def remember(context: Context) -> None:
    """Take what an earlier start of this run found to fit, so that a resumed training goes on as it was."""
    seen = [event for event in EventTail(context.run.events).poll() if isinstance(event, Probe) and event.fits]
    if seen and seen[-1].changes:
        _take(context, apply(context.plan.preset, seen[-1].changes), context.plan.correction)


def _take(context: Context, preset: Preset, known: Correction) -> None:
    plan = context.plan
    card = None if plan.gpu is None else _card(plan.gpu)
    changed = {"preset": preset, "correction": known, "vram": ledger(preset, card, known, plan.longest)}
    context.plan = plan.model_copy(update=changed)


def _card(chosen: GpuChoice) -> GpuReading:
    return GpuReading(**chosen.model_dump())


def probe(context: Context, model: Any, lengths: Sequence[int], run: Pass, meter: Meter | None = None) -> Trial | None:
    """Measure the longest batch of rows of these lengths; None on the CPU, which says why.

    What does not fit is trained otherwise: `context.plan` then has the settings that do. Each trial is told as an
    event and kept for the next plan. `meter` None is the GPU's own. Raises `RunError` if nothing fits.
    """
    plan = context.plan
    if plan.gpu is None:
        context.finding("ok", "The longest batch was not measured", "Only a GPU counts its memory so exactly.")
        return None
    context.phase("measuring the longest batch")
    bench = Bench(
        _card(plan.gpu), lengths_of(lengths, plan.train.max_length), run, meter or CudaMeter(model, plan.gpu.uuid)
    )
    frozen = load_plan(context.run).preset

    def tell(trial: Trial) -> None:
        context.check_stop()
        context.emit(trial.event.model_copy(update={"changes": differing(frozen, trial.preset)}))
        if trial.found is not None:
            _keep(context, trial.found)

    with undisturbed(model):
        trial = settle(plan.preset, bench, plan.correction, plan.fixed, tell)
    if trial.preset != plan.preset:
        _take(context, trial.preset, trial.correction)
        context.finding("warning", "The planned batch did not fit and is divided otherwise", _instead(trial))
    return trial


def _instead(trial: Trial) -> str:
    train, policy = trial.preset.train, planner.policy_of(trial.preset)
    batch = f"{train.micro_batch_size} × {train.gradient_accumulation_steps} rows to a step, the same effective batch"
    return f"{batch}; layers computed twice: {policy.name if policy else 'as you set it'}. {_figures(trial.event)}"


def _keep(context: Context, found: Measurement) -> None:
    try:
        calibration.record(found)
    except OSError as error:  # the training itself does not need it
        context.finding("warning", "The measurement cannot be kept for the next plan", clean_line(str(error), 300))


def keep_speed(context: Context, trial: Trial | None, lengths: Sequence[int]) -> None:
    """After the training: the measurement once more with the speed that was reached, for the next plan's time."""
    steps = [event for event in EventTail(context.run.events).poll() if isinstance(event, Step)]
    speeds = [event.tokens_per_s for event in steps if event.tokens_per_s]
    if trial is None or trial.found is None or not speeds:
        return
    flop = training_flop(trial.preset, 1, sum(lengths) / len(lengths))
    _keep(context, trial.found.model_copy(update={"t": time.time(), "flops": median(speeds) * flop}))
