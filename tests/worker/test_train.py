"""The train stage on a tiny random model: real NF4, real LoRA, real trl, on the CPU."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine import launch, runs
from engine.datasets.base import Row
from engine.errors import DataError, MissingError, RunError
from engine.events import Step, Stopped
from engine.paths import RunDir
from engine.tokens.mask import encode
from engine.tokens.tokenizer import Tokenizer
from engine.worker import checkpoint, examples, model, train
from engine.worker.context import Context, StopRequested
from engine.worker.trainer import AdapterTrainer

from .conftest import MakeContext, MakeRun, colour_rows, events_of

pytestmark = pytest.mark.slow


def losses(run: RunDir) -> dict[int, float]:
    """The loss of each step; after a resume the newest telling counts."""
    return {event.step: event.loss for event in events_of(run, "step") if isinstance(event, Step)}


@pytest.fixture
def trained(make_run: MakeRun, make_context: MakeContext) -> RunDir:
    run = make_run("whole")
    train.run(make_context(run))
    return run


def test_a_whole_run_learns_and_leaves_what_it_promises(trained: RunDir) -> None:
    seen = losses(trained)
    assert list(seen) == list(range(1, 9))
    assert seen[8] < seen[1] - 0.5
    assert [event.step for event in events_of(trained, "eval")] == [4, 8]  # type: ignore[union-attr]
    assert [event.form for event in events_of(trained, "score")] == ["base", "as trained"]  # type: ignore[union-attr]
    assert len(trained.heldout.read_text().splitlines()) == 8
    assert sorted(path.name for path in trained.checkpoints.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    assert not list(trained.path.rglob("training_args.bin"))
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == runs.load_plan(trained).preset.model
    names = {path.name for path in trained.adapter.iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    weights = load_file(str(trained.adapter / "adapter_model.safetensors"))
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    quantized = [event.title for event in events_of(trained, "finding")]  # type: ignore[union-attr]
    assert "14 linear layers in NF4" in quantized


def test_it_learns_the_answers_alone_and_no_row_that_is_held_out(trained: RunDir, tiny_model_dir: Path) -> None:
    fifth = events_of(trained, "step")[4]
    assert isinstance(fifth, Step)
    assert fifth.epoch == 1.0  # 5 steps of 8 rows are the 40 that are not held out
    answers = encode(Tokenizer.load(tiny_model_dir), [Row(1, chat) for chat in colour_rows(40)])
    assert fifth.trained_tokens == sum(row.trained for row in answers)


def test_a_stopped_run_resumes_with_the_losses_of_one_that_was_not(
    trained: RunDir, make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("stopped")
    context = make_context(run)
    _at_step(monkeypatch, 3, run.stop.touch)
    with pytest.raises(StopRequested) as stopped:
        train.run(context)
    assert stopped.value.step == 3
    assert not run.adapter.exists()
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-3"]

    run.stop.unlink()
    monkeypatch.undo()
    train.run(make_context(run, resume=True))
    assert losses(run) == losses(trained)
    ours, theirs = (load_file(str(each.adapter / "adapter_model.safetensors")) for each in (run, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    tokens = [event.trained_tokens for event in events_of(run, "step")]  # type: ignore[union-attr]
    assert tokens[-1] == events_of(trained, "step")[-1].trained_tokens  # type: ignore[union-attr]


def test_a_truncated_checkpoint_is_skipped_and_the_one_before_taken(trained: RunDir, make_context: MakeContext) -> None:
    before = losses(trained)
    damaged = trained.checkpoints / "checkpoint-8" / "optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    train.run(make_context(trained, resume=True))
    told = [event for event in events_of(trained, "finding") if "skipped" in event.title]  # type: ignore[union-attr]
    assert "checkpoint-8: optimizer.pt has 1000 bytes" in told[0].detail  # type: ignore[union-attr]
    assert losses(trained) == before


def test_a_finished_training_resumes_to_the_same_adapter(make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run(lr_scheduler_type="constant")  # the others end at 0, where a step too many would change nothing
    train.run(make_context(run))
    before = (run.adapter / "adapter_model.safetensors").read_bytes()
    train.run(make_context(run, resume=True))
    assert (run.adapter / "adapter_model.safetensors").read_bytes() == before
    assert max(losses(run)) == 8


def test_a_loss_that_is_not_a_number_stops_before_anything_is_saved(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(save_steps=2)
    honest = AdapterTrainer.compute_loss

    def broken(self: AdapterTrainer, *arguments: Any, **settings: Any) -> Any:
        loss = honest(self, *arguments, **settings)
        return loss * math.nan if self.state.global_step == 3 else loss

    monkeypatch.setattr(AdapterTrainer, "compute_loss", broken)
    with pytest.raises(RunError, match="step 4: loss nan") as caught:
        train.run(make_context(run))
    assert "checkpoint is of step 2" in caught.value.detail
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-2"]
    assert not run.adapter.exists()


def test_an_evaluation_in_between_does_not_change_the_training(
    trained: RunDir, make_run: MakeRun, make_context: MakeContext
) -> None:
    run = make_run("unobserved", eval_steps=1000, score_rows=0)
    train.run(make_context(run))
    assert losses(run) == losses(trained)


def test_sixteen_bit_training_with_gradient_checkpointing(make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run(quantization="none", gradient_checkpointing=True, max_steps=4, score_rows=0)
    train.run(make_context(run))
    seen = losses(run)
    assert seen[4] < seen[1]


def test_changed_data_are_refused(make_run: MakeRun, make_context: MakeContext) -> None:
    run = make_run()
    context: Context = make_context(run)
    with Path(context.plan.data.path).open("a") as data:
        data.write("\n")
    with pytest.raises(DataError, match="changed since the plan"):
        train.run(context)
    assert not run.checkpoints.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_changed_held_out_data_are_refused(
    make_run: MakeRun, make_context: MakeContext, tmp_path: Path, resume: bool
) -> None:
    held_out = tmp_path / "heldout.jsonl"
    held_out.write_text("as planned\n")
    context: Context = make_context(make_run(), resume=resume)
    data = context.plan.data.model_copy(update={"eval_path": str(held_out)})
    summary = context.plan.summary.model_copy(update={"eval_sha256": checkpoint.sha256(held_out)})
    context.plan = context.plan.model_copy(update={"data": data, "summary": summary})
    examples.require_planned(context)
    held_out.write_text("as changed\n")
    with pytest.raises(DataError, match="changed since the plan") as caught:
        train.run(context)
    assert str(held_out) in caught.value.detail


@pytest.mark.parametrize(("steps", "every", "seen"), [(10, 5, [5, 10]), (5, 5, [5]), (7, 3, [3, 6, 7])])
def test_each_step_is_evaluated_once(
    make_run: MakeRun, make_context: MakeContext, steps: int, every: int, seen: list[int]
) -> None:
    run = make_run(max_steps=steps, eval_steps=every)  # 5 steps are an epoch
    train.run(make_context(run))
    assert [event.step for event in events_of(run, "eval")] == seen  # type: ignore[union-attr]
    samples = [event.step for event in events_of(run, "sample")]  # type: ignore[union-attr]
    assert samples == [step for step in seen for _ in range(train.SAMPLES)]
    assert [event.step for event in events_of(run, "checkpoint")].count(steps) == 1  # type: ignore[union-attr]


def test_a_model_that_is_not_here_says_what_to_do_offline(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    context = make_context(make_run())
    preset = context.plan.preset.model_copy(update={"model": "nobody/nothing-at-all"})
    context.plan = context.plan.model_copy(update={"preset": preset})
    with pytest.raises(MissingError, match="not on this machine") as caught:
        model.locate(context)
    assert any("hf download" in hint for hint in caught.value.hints)


def test_half_a_folder_is_named(
    make_run: MakeRun, make_context: MakeContext, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny_model_dir / "config.json").read_bytes())
    context = make_context(make_run())
    preset = context.plan.preset.model_copy(update={"model": str(folder)})
    context.plan = context.plan.model_copy(update={"preset": preset})
    with pytest.raises(MissingError, match=r"has no model\.safetensors"):
        model.locate(context)


def test_a_worker_process_stops_at_a_step_and_says_which(make_run: MakeRun) -> None:
    run = make_run(max_steps=2000, eval_steps=2000, save_steps=2000, score_rows=0)
    launch.start(run, ["train"])
    _until(lambda: bool(events_of(run, "step")), 90)
    assert launch.request_stop(run)
    _until(lambda: runs.lock_holder(run) is None, 30)
    (stopped,) = events_of(run, "stopped")
    assert isinstance(stopped, Stopped)
    assert (run.checkpoints / f"checkpoint-{stopped.step}").is_dir()


def _at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    honest = AdapterTrainer.get_batch_samples

    def watched(self: AdapterTrainer, *arguments: Any) -> Any:
        if self.state.global_step == step - 1:
            act()
        return honest(self, *arguments)

    monkeypatch.setattr(AdapterTrainer, "get_batch_samples", watched)


def _until(true: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.1)
