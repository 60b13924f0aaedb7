"""The probe: what it measures, what it chooses when that does not fit, and that it disturbs nothing.

Covered on the CPU: the logic against a card that is made of the ledger with an error of its own, and the passes with
the tiny model. Not covered here: what a GPU says of its memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine import calibration, presets, runs
from engine.commands.narrate import probe_line
from engine.commands.runs import _facts
from engine.config import Preset
from engine.errors import RunError
from engine.events import Probe
from engine.gpu import GpuReading
from engine.paths import RunDir
from engine.plan import GpuChoice
from engine.planner import CHOSEN
from engine.units import GIB
from engine.vram import UNMEASURED, Correction, ledger, split
from engine.worker import checkpoint, probe, train
from engine.worker.context import Context
from engine.worker.trainer import AdapterTrainer

from .conftest import MakeContext, MakeRun, events_of

CONTEXT = GIB // 2


class Card:
    """A GPU whose memory is the ledger's, with an error in what comes and goes with the tokens."""

    def __init__(self, size: int, error: float, longest: int) -> None:
        self.room_bytes, self.error, self.longest = size - CONTEXT, error, longest
        self.passes: list[Preset] = []

    def run(self, preset: Preset) -> None:
        self.passes.append(preset)
        if self.most()[1] > self.room_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def loaded(self) -> int:
        return split(self.passes[-1], longest=self.longest, absent=("optimizer",))[0]

    def most(self) -> tuple[int, int]:
        most = self.loaded() + int(self.error * split(self.passes[-1], longest=self.longest)[1])
        return most, int(1.03 * most)

    def room(self) -> int:
        return self.room_bytes

    def context(self) -> int | None:
        return CONTEXT

    def release(self) -> None:
        pass


def settled(
    size: int, error: float, fixed: tuple[str, ...] = (), known: Correction = UNMEASURED
) -> tuple[Preset, Card, list[probe.Trial]]:
    """The probe of Llama 3.1 8B on a card of that size."""
    preset, told = presets.find_preset("llama-3.1-8b-instruct"), list[probe.Trial]()
    lengths = probe.lengths_of([300, 2048, 1500, 700] * 20, preset.train.max_length)
    card = Card(size, error, lengths.longest)
    reading = GpuReading(uuid="GPU-1", name="a card", total_bytes=size, free_bytes=size)
    bench = probe.Bench(reading, lengths, card.run, card)
    return probe.settle(preset, bench, known, fixed, told.append).preset, card, told


def test_what_fits_is_trained_as_planned_and_measured_once() -> None:
    preset, card, told = settled(24 * GIB, 1.1)
    assert preset == presets.find_preset("llama-3.1-8b-instruct")
    assert len(card.passes) == 2  # the second one has the gradients in memory
    event = told[0].event
    assert event.fits
    assert (event.rows, event.length) == (preset.train.micro_batch_size, 2048)
    assert event.predicted_bytes == ledger(preset, GpuReading(), longest=2048).needed_bytes
    assert event.measured_bytes is not None
    assert event.measured_bytes == pytest.approx(event.predicted_bytes, rel=0.1)


@pytest.mark.parametrize(
    ("size", "error", "measured"),
    [(10, 1.7, True), (12, 2.6, True), (9, 4.0, False)],
    ids=["too large", "more than is believed of a measurement", "full"],
)
def test_what_does_not_fit_is_divided_otherwise_with_the_same_effective_batch(
    size: int, error: float, measured: bool
) -> None:
    preset, _, told = settled(size * GIB, error)
    assert not told[0].event.fits
    assert (told[0].found is not None) is measured
    assert told[-1].event.fits
    asked = presets.find_preset("llama-3.1-8b-instruct").train
    chosen = preset.train
    batch = asked.micro_batch_size * asked.gradient_accumulation_steps
    assert chosen.micro_batch_size * chosen.gradient_accumulation_steps == batch
    assert chosen != asked
    assert chosen.model_copy(update=_chosen(asked)) == asked


def _chosen(train: Any) -> dict[str, Any]:
    return {name.partition(".")[2]: getattr(train, name.partition(".")[2]) for name in CHOSEN}


def test_the_optimizer_that_comes_later_counts() -> None:
    preset = presets.find_preset("llama-3.1-8b-instruct")
    card = Card(24 * GIB, 1.0, 2048)
    card.passes.append(preset)
    # There is room for the pass, but not for the moments that the first step adds.
    size = card.most()[1] + CONTEXT + 2**20
    _, _, told = settled(size, 1.0)
    assert told[0].found is not None
    assert not told[0].event.fits


def test_where_nothing_fits_the_run_ends_before_its_first_step_with_advice() -> None:
    with pytest.raises(RunError, match="longest batch does not fit") as caught:
        settled(4 * GIB, 1.0)
    assert "predicted" in caught.value.detail
    assert any("--set" in hint for hint in caught.value.hints)


def test_what_is_set_by_hand_is_not_chosen_otherwise() -> None:
    with pytest.raises(RunError) as caught:
        settled(9 * GIB, 1.7, fixed=CHOSEN)
    assert any("--set micro_batch_size=" in hint for hint in caught.value.hints)


def test_another_error_is_not_taken_for_a_full_gpu() -> None:
    def broken(_: Preset) -> None:
        raise RuntimeError("something else")

    preset = presets.find_preset("llama-3.1-8b-instruct")
    lengths = probe.lengths_of([100], 2048)
    card = Card(24 * GIB, 1.0, 100)
    bench = probe.Bench(GpuReading(free_bytes=24 * GIB), lengths, broken, card)
    with pytest.raises(RuntimeError, match="something else"):
        probe.settle(preset, bench, UNMEASURED, (), lambda _: None)


def test_the_next_plan_is_corrected_by_what_was_measured() -> None:
    preset, _, told = settled(24 * GIB, 1.4)
    assert told[-1].found is not None
    known = calibration.correction(preset, GpuReading(name="a card"), [told[-1].found])
    assert known.activations == pytest.approx(1.4, rel=0.01)
    assert known.measured


def test_lengths_and_longest_rows_are_those_of_the_data() -> None:
    lengths = [5, 64, 65, 200, 200]
    stats = probe.lengths_of(lengths, 256)
    assert (stats.rows, stats.tokens, stats.longest, stats.lengths) == (5, 534, 200, (2, 1, 0, 2))
    assert probe.longest_rows(lengths, 3) == [3, 4, 2]
    assert probe.longest_rows([1, 2], 3) == [1, 0, 1]


def test_predicted_and_measured_stand_side_by_side() -> None:
    fits = Probe(
        rows=4, length=2048, predicted_bytes=8 * GIB, measured_bytes=9 * GIB, available_bytes=16 * GIB, fits=True
    )
    full = fits.model_copy(update={"measured_bytes": None, "fits": False})
    assert (
        probe_line(fits) == "longest batch, 4 × 2,048 tokens: predicted 8.0 GiB, measured 9.0 GiB, 16.0 GiB available"
    )
    assert (
        probe_line(full)
        == "longest batch, 4 × 2,048 tokens: predicted 8.0 GiB, measured more than there is, 16.0 GiB available"
    )


# ── in a run, on the CPU ──


class Nothing:
    """A meter that counts nothing: everything fits, or nothing does before `fits` says so."""

    def __init__(self, fits: Callable[[int], bool] = lambda _: True) -> None:
        self.fits, self.tries = fits, 0

    def loaded(self) -> int:
        self.tries += 1
        return 1

    def most(self) -> tuple[int, int]:
        return (2, 2) if self.fits(self.tries) else (10**12, 10**12)

    def room(self) -> int:
        return 10**9

    def context(self) -> int | None:
        return None

    def release(self) -> None:
        pass


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, meter: Nothing) -> None:
    """Runs on the CPU are probed as if they had a GPU that this meter counts."""
    honest = probe.probe

    def probed(context: Context, model: Any, lengths: Any, run: Any, _: Any = None) -> Any:
        chosen = GpuChoice(uuid="GPU-1", name="a card", total_bytes=10**9, free_bytes=10**9)
        context.plan = context.plan.model_copy(update={"gpu": chosen})
        try:
            return honest(context, model, lengths, run, meter)
        finally:
            context.plan = context.plan.model_copy(update={"gpu": None})

    monkeypatch.setattr(probe, "probe", probed)


def adapter(run: RunDir) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(str(run.adapter / "adapter_model.safetensors"))
    return weights


def same(one: RunDir, other: RunDir) -> bool:
    ours, theirs = adapter(one), adapter(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


SHORT: dict[str, Any] = {"max_steps": 4, "eval_steps": 100, "save_steps": 2, "score_rows": 0, "quantization": "none"}


def test_on_the_cpu_it_says_why_nothing_is_measured(make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run(**SHORT)
    train.run(make_context(run))
    assert any("was not measured" in event.title for event in events_of(run, "finding"))  # type: ignore[union-attr]
    assert not events_of(run, "probe")
    assert not calibration.measurements()


@pytest.mark.parametrize("policy", [{}, {"gradient_checkpointing": True, "gradient_checkpointing_every": 2}])
def test_a_probed_training_is_the_same_to_the_bit(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, policy: dict[str, Any]
) -> None:
    plain, probed = make_run("plain", **SHORT, **policy), make_run("probed", **SHORT, **policy)
    train.run(make_context(plain))
    on_a_gpu(monkeypatch, Nothing())
    train.run(make_context(probed))
    event = events_of(probed, "probe")[0]
    assert isinstance(event, Probe)
    assert (event.rows, event.fits, event.changes) == (4, True, {})
    assert same(plain, probed)
    speeds = [found.flops for found in calibration.measurements()]
    assert [speed is not None for speed in speeds] == [False, True]
    assert runs.read(probed).state.probe == event
    assert "predicted" in _facts(runs.read(probed))["memory"]
    assert "measured" in _facts(runs.read(probed))["memory"]


def test_a_batch_that_was_divided_otherwise_trains_as_if_planned_so_and_resumes_exactly(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    divided, resumed = make_run("divided", **SHORT), make_run("resumed", **SHORT)
    on_a_gpu(monkeypatch, Nothing(lambda tries: tries > 1))
    train.run(make_context(divided))
    event = events_of(divided, "probe")[-1]
    assert isinstance(event, Probe)
    assert event.changes
    titles = [event.title for event in events_of(divided, "finding")]  # type: ignore[union-attr]
    assert "The planned batch did not fit and is divided otherwise" in titles

    monkeypatch.undo()
    keys = {name.partition(".")[2]: value for name, value in event.changes.items()}
    planned = make_run("planned", **{**SHORT, **keys})
    train.run(make_context(planned))
    assert same(divided, planned)

    on_a_gpu(monkeypatch, Nothing(lambda tries: tries > 1))
    train.run(make_context(resumed))
    newest = max(resumed.checkpoints.iterdir(), key=lambda path: path.name)
    for path in [newest, *resumed.adapter.iterdir()]:
        _remove(path)
    on_a_gpu(monkeypatch, Nothing())
    train.run(make_context(resumed, resume=True))
    assert same(divided, resumed)
    assert checkpoint.newest(resumed, checkpoint.sha256(resumed.plan), runs.load_plan(resumed).summary.sha256)[0]


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_a_pass_changes_neither_weights_nor_random_numbers(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    honest = train._probed

    def watched(context: Context, prepared: Any, trainer: AdapterTrainer, *rest: Any) -> Any:
        weights = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
        numbers = torch.get_rng_state()
        told = honest(context, prepared, trainer, *rest)
        seen.append(torch.equal(torch.get_rng_state(), numbers))
        seen.extend(torch.equal(weight, weights[name]) for name, weight in trainer.model.named_parameters())
        seen.extend(weight.grad is None for weight in trainer.model.parameters())
        seen.append(trainer.optimizer is None)
        return told

    monkeypatch.setattr(train, "_probed", watched)
    on_a_gpu(monkeypatch, Nothing())
    run = make_run(**{**SHORT, "max_steps": 3})
    context = make_context(run)
    lora = context.plan.lora.model_copy(update={"dropout": 0.2})  # draws random numbers in each pass
    context.plan = context.plan.model_copy(update={"preset": context.plan.preset.model_copy(update={"lora": lora})})
    train.run(context)
    assert seen
    assert all(seen)
