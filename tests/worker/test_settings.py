"""What is planned is what trl, peft and transformers are told, field by field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model

from engine.errors import MissingError, RunError
from engine.families import FAMILIES
from engine.worker import model, train
from engine.worker.trainer import AdapterTrainer, trainable

from .conftest import MakeContext, MakeRun
from .test_family_shapes import built, small

UNUSUAL: dict[str, Any] = {
    "learning_rate": 3e-5,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.07,
    "micro_batch_size": 3,
    "gradient_accumulation_steps": 5,
    "optimizer": "adamw_torch",
    "max_grad_norm": 0.33,
    "seed": 4711,
    "max_steps": 17,
}


def test_the_trainer_is_told_the_plan(make_run: MakeRun, make_context: MakeContext) -> None:
    context = make_context(make_run(**UNUSUAL))
    context.plan = context.plan.model_copy(update={"warmup_steps": 6})
    told = train._arguments(context, "cpu")
    expected = {
        "max_steps": 17,
        "warmup_steps": 6,
        "learning_rate": 3e-5,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.07,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 5,
        "optim": "adamw_torch",
        "max_grad_norm": 0.33,
        "seed": 4711,
        "data_seed": 4711,
        "max_length": None,
        "packing": False,
        "bf16": False,
        "fp16": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
    }
    assert {name: getattr(told, name) for name in expected} == expected


@pytest.mark.parametrize("wanted", [True, False])
def test_gradient_checkpointing_is_as_planned(make_run: MakeRun, make_context: MakeContext, wanted: bool) -> None:
    assert (
        train._arguments(make_context(make_run(gradient_checkpointing=wanted)), "cpu").gradient_checkpointing is wanted
    )


def test_the_adapter_is_made_as_planned(make_run: MakeRun, make_context: MakeContext) -> None:
    context = make_context(make_run())
    lora = context.plan.lora.model_copy(update={"rank": 6, "alpha": 24, "dropout": 0.125})
    context.plan = context.plan.model_copy(
        update={"preset": context.plan.preset.model_copy(update={"lora": lora})},
    )
    told = train._lora(context)
    assert (told.r, told.lora_alpha, told.lora_dropout) == (6, 24, 0.125)
    linears = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert (told.target_modules, told.task_type, told.bias) == (linears, "CAUSAL_LM", "none")


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_lora_adapts_exactly_the_linears_of_the_family(make_run: MakeRun, make_context: MakeContext, name: str) -> None:
    """Of a mixture peft would take its router and all experts too, which the ledger does not count."""
    family, arch = FAMILIES[name], small(FAMILIES[name])
    context = make_context(make_run())
    preset = context.plan.preset.model_copy(update={"family": name, "architecture": arch})
    context.plan = context.plan.model_copy(update={"preset": preset})
    adapted = get_peft_model(built(family, arch), train._lora(context))
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(names) == 2 * arch.num_hidden_layers * len(family.linear_shapes(arch))
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == set(family.linear_shapes(arch))
    count = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert count == family.lora_parameters(arch, context.plan.lora.rank)


@pytest.mark.parametrize(("device", "offloads"), [("cpu", False), ("cuda", True)])
def test_the_checkpointing_policy_is_told_and_never_offloads_on_the_cpu(
    make_run: MakeRun, make_context: MakeContext, device: Any, offloads: bool
) -> None:
    policy = {"gradient_checkpointing_every": 2, "gradient_checkpointing_offload": True}
    settings = make_context(make_run(gradient_checkpointing=True, **policy)).plan.train
    told = {"use_reentrant": False, "every_n_layers": 2, "offload": offloads}
    assert train.checkpointing(settings, device) == told


def test_only_every_second_layer_is_computed_twice(make_run: MakeRun, make_context: MakeContext) -> None:
    context = make_context(make_run(gradient_checkpointing=True, gradient_checkpointing_every=2))
    told = train._arguments(context, "cpu")
    assert (told.activation_checkpointing, told.gradient_checkpointing) == (True, True)
    assert told.activation_checkpointing_kwargs == train.checkpointing(context.plan.train, "cpu")


def test_no_code_from_the_model_folder_is_run(
    tiny_model_dir: Path, tmp_path: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    folder, marker = Path(shutil.copytree(tiny_model_dir, tmp_path / "trap")), tmp_path / "it ran"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "trap.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
    )
    context = make_context(make_run(quantization="none"))
    model.processing_class(folder, model.load_tokenizer(context, folder))
    model.load_base(context, folder, "cpu")
    assert not marker.exists()


def test_pickled_weights_are_refused(
    tiny_model_dir: Path, tmp_path: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "pickled"))
    weights = folder / "model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    context = make_context(make_run(quantization="none"))
    with pytest.raises(MissingError, match="cannot be loaded"):
        model.load_base(context, folder, "cpu")
    preset = context.plan.preset.model_copy(update={"model": str(folder)})
    context.plan = context.plan.model_copy(update={"preset": preset})
    with pytest.raises(MissingError, match="not whole"):
        model.locate(context)


@pytest.mark.slow
@pytest.mark.parametrize(("value", "words"), [(None, "did not change"), (float("nan"), "not a number")])
def test_an_adapter_that_is_none_is_never_finished(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, value: float | None, words: str
) -> None:
    def no_training(self: AdapterTrainer, **_: Any) -> None:
        if value is not None:
            next(iter(trainable(self.model).values())).data[0, 0] = value

    monkeypatch.setattr(AdapterTrainer, "train", no_training)
    run = make_run(score_rows=0)
    with pytest.raises(RunError, match=words):
        train.run(make_context(run))
    assert not run.adapter.exists()


@pytest.mark.slow
def test_no_checkpoint_is_made_of_what_is_not_a_number(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = AdapterTrainer._save_checkpoint

    def broken(self: AdapterTrainer, *arguments: Any) -> None:
        next(iter(trainable(self.model).values())).data[0, 0] = float("inf")
        honest(self, *arguments)

    monkeypatch.setattr(AdapterTrainer, "_save_checkpoint", broken)
    run = make_run(score_rows=0, max_steps=1)
    with pytest.raises(RunError, match="not a number"):
        train.run(make_context(run))
    assert not run.checkpoints.exists() or not list(run.checkpoints.iterdir())


@pytest.mark.slow
def test_the_gpu_full_in_a_step_is_told_with_what_would_help(
    make_run: MakeRun, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(AdapterTrainer, "compute_loss", full)
    with pytest.raises(RunError, match="memory is full") as caught:
        train.run(make_context(make_run(score_rows=0)))
    assert any("train.micro_batch_size=1" in hint for hint in caught.value.hints)
