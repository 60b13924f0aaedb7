"""A Gemma 3 that can see: only its text part is trained, merged and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import Preset
from engine.errors import MissingError
from engine.model_folder import preset_of_folder
from engine.worker import lineage, merge, model, train
from engine.worker.context import Context
from engine.worker.fold import Weights

from .conftest import MakeContext, MakeRun, make_core

BESIDE = ("vision_tower.", "multi_modal_projector.")


@pytest.fixture(scope="module")
def seeing(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma 3 with two layers for text and one that sees, as transformers writes it."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": make_core().get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "sliding_window": 32,
    }
    sees = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    folder = tmp_path_factory.mktemp("gemma")
    torch.manual_seed(0)
    made = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=sees, mm_tokens_per_image=1))
    made.to(torch.bfloat16).save_pretrained(folder)
    for file in tiny_model_dir.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_bytes((tiny_model_dir / "chat_template.jinja").read_bytes())
    return folder


def on(context: Context, folder: Path) -> Context:
    found = preset_of_folder(folder)
    settings = {"lora": context.plan.preset.lora, "train": context.plan.preset.train}
    preset: Preset = found.model_copy(update=settings)
    context.plan = context.plan.model_copy(update={"preset": preset})
    return context


def text_model(folder: Path) -> Any:
    """Loaded by hand, without what is tested."""
    from transformers import Gemma3Config, Gemma3ForCausalLM

    config = Gemma3Config.from_pretrained(folder).text_config
    made = Gemma3ForCausalLM(config)
    stored = load_file(folder / "model.safetensors")
    named = {name.removeprefix("language_model."): tensor.float() for name, tensor in stored.items()}
    known = {name: tensor for name, tensor in named.items() if not name.startswith(BESIDE)}
    assert not made.load_state_dict(known, strict=False).unexpected_keys
    made.tie_weights()
    return made.eval()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_only_the_text_part_is_loaded(
    seeing: Path, make_run: MakeRun, make_context: MakeContext, quantization: str
) -> None:
    loaded = model.load_base(on(make_context(make_run(quantization=quantization)), seeing), seeing, "cpu")
    assert type(loaded).__name__ == "Gemma3ForCausalLM"
    assert not any("vision" in name or "projector" in name for name, _ in loaded.named_modules())
    theirs = text_model(seeing).state_dict()
    weights = {name: tensor for name, tensor in loaded.state_dict().items() if name in theirs}
    assert len(weights) == len(theirs)
    same = [name for name, tensor in weights.items() if torch.equal(tensor, theirs[name])]
    linears = [name for name in theirs if name.endswith("_proj.weight")]
    assert set(same) == set(theirs) - (set(linears) if quantization == "nf4" else set())


@pytest.mark.slow
def test_what_is_trained_and_merged_is_a_text_model(seeing: Path, make_run: MakeRun, make_context: MakeContext) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = make_run(score_rows=0, max_steps=2)
    train.run(on(make_context(run), seeing))
    trained = load_file(run.adapter / "adapter_model.safetensors")
    assert len(trained) == 2 * 2 * 7  # A and B, two layers, seven linears
    assert all(name.startswith("base_model.model.model.layers.") for name in trained)
    assert lineage.read(run.adapter) == lineage.base_of(seeing)

    merge.run(on(make_context(run, "merge"), seeing))
    config = json.loads((run.merged / "config.json").read_text())
    assert config["architectures"] == ["Gemma3ForCausalLM"]
    assert "vision_config" not in config
    merged = AutoModelForCausalLM.from_pretrained(run.merged, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(text_model(seeing), str(run.adapter)).merge_and_unload().to(torch.bfloat16)
    ours, wanted = merged.state_dict(), theirs.state_dict()
    assert ours.keys() == wanted.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, wanted[name].float(), rtol=2**-7, atol=1e-6)


def test_the_merged_folder_counts_as_the_same_model(seeing: Path) -> None:
    weights = Weights(seeing)
    assert not any(spec.name.startswith((*BESIDE, "language_model.")) for spec in weights.specs)
    assert sum(torch.Size(spec.shape).numel() for spec in weights.specs) == preset_of_folder(seeing).parameters


def test_weights_that_are_missing_are_not_made_up(
    tiny_model_dir: Path, tmp_path: Path, make_run: MakeRun, make_context: MakeContext
) -> None:
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(MissingError, match=r"layers\.1\.mlp\.up_proj"):
        model.load_base(make_context(make_run(quantization="none")), tmp_path, "cpu")
