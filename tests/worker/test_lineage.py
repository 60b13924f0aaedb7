"""An adapter goes with the base that it was trained on, and with no other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import Architecture
from engine.errors import RunError
from engine.model_folder import preset_of_folder
from engine.worker import lineage, model, train
from engine.worker.context import Context, StopRequested

from .conftest import MakeContext, MakeRun

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def base(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))


def retrain(base: Path) -> None:
    """Other values in the same shapes, so that neither size nor header tells."""
    file = base / "model.safetensors"
    save_file({name: weight * 1.5 for name, weight in load_file(file).items()}, file, {"format": "pt"})


def on(context: Context, name: str, shape: Architecture | None = None) -> Context:
    preset = context.plan.preset.model_copy(update={"model": name, **({"architecture": shape} if shape else {})})
    context.plan = context.plan.model_copy(update={"preset": preset})
    return context


def test_a_base_of_other_weights_in_the_same_shapes_is_refused(
    base: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    run = make_run()
    run.adapter.mkdir()
    lineage.write(run.adapter, lineage.base_of(base))
    context = on(make_context(run, "merge"), str(base))
    assert model.locate(context) == base
    retrain(base)
    with pytest.raises(RunError, match="changed since the training"):
        model.locate(context)


def test_large_files_are_told_apart_by_pieces_of_them(base: Path) -> None:
    file = base / "model.safetensors"
    weights = {"large": torch.zeros(6_000_000, dtype=torch.int16)}  # more than all pieces together
    save_file(weights, file)
    before = lineage.fingerprint(base)
    save_file({"large": weights["large"] + 1}, file)
    assert lineage.fingerprint(base) != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_another_config_or_tokenizer_is_another_base(base: Path, name: str) -> None:
    before = lineage.fingerprint(base)
    with (base / name).open("a") as file:
        file.write("\n")
    assert lineage.fingerprint(base) != before


@pytest.mark.parametrize("recorded_by", ["finetui", "peft"])
def test_later_stages_take_the_commit_that_was_trained(
    recorded_by: str,
    base: Path,
    make_run: MakeRun,
    make_context: MakeContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = tmp_path / "hub" / "models--some--body"
    for commit in (OLD, NEW):
        shutil.copytree(base, repository / "snapshots" / commit)
    retrain(repository / "snapshots" / NEW)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(NEW)  # main has moved on
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run = make_run()
    context = on(make_context(run, "merge"), "some/body", preset_of_folder(base).architecture)
    assert model.locate(context).name == NEW
    run.adapter.mkdir()
    if recorded_by == "finetui":
        lineage.write(run.adapter, lineage.base_of(repository / "snapshots" / OLD))
    else:
        (run.adapter / "adapter_config.json").write_text(json.dumps({"revision": OLD}))
    assert model.locate(context).name == OLD


@pytest.mark.slow
def test_training_records_its_base_and_does_not_go_on_with_another(
    base: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    run = make_run(score_rows=0, max_steps=2)
    train.run(on(make_context(run), str(base)))
    assert lineage.read(run.adapter) == lineage.base_of(base)
    retrain(base)
    with pytest.raises(RunError, match="changed since the training"):
        train.run(on(make_context(run, resume=True), str(base)))


@pytest.mark.slow
def test_a_training_from_the_start_takes_the_base_as_it_is(
    base: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    run = make_run(score_rows=0, max_steps=1)
    run.adapter.mkdir()
    lineage.write(run.adapter, lineage.Base(sha256="of an earlier one"))
    context = on(make_context(run), str(base))
    run.stop.touch()
    with pytest.raises(StopRequested):
        train.run(context)
