"""A model's `config.json`: the numbers taken from it, and each that contradicts a preset."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from engine import presets
from engine.config import Preset
from engine.errors import UsageError
from engine.families import FAMILIES
from engine.model_folder import count_parameters, differences, preset_of_config, preset_of_folder
from engine.paths import builtin_presets

BUNDLED = sorted(builtin_presets().glob("*.toml"))

GEMMA_3_4B: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16},
}
"""What google/gemma-3-4b-it says about its shapes; the rest is transformers' defaults."""


def preset(name: str) -> Preset:
    return presets.load_preset(builtin_presets() / f"{name}.toml")


def config_of(told: Preset, **changes: object) -> dict[str, Any]:
    """The `config.json` of a preset's model."""
    family = FAMILIES[told.family]
    config = told.architecture.model_dump() | {
        "architectures": [family.architectures[0]],
        "max_position_embeddings": told.context_length,
    }
    return {name: value for name, value in {**config, **changes}.items() if value is not None}


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_the_models_own_config_is_no_difference(path: Path) -> None:
    told = presets.load_preset(path)
    assert differences(told, config_of(told)) == ()


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_a_config_gives_the_numbers_of_its_preset(path: Path) -> None:
    told = presets.load_preset(path)
    made = preset_of_config(config_of(told), told.model, "config.json")
    assert (made.architecture, made.parameters) == (told.architecture, told.parameters)
    assert made.train.learning_rate == told.train.learning_rate


def test_a_config_that_leaves_out_the_defaults_is_read_as_transformers_does() -> None:
    told = preset("gemma-3-4b-it")
    assert differences(told, GEMMA_3_4B) == ()
    assert preset_of_config(GEMMA_3_4B, told.model, "config.json").architecture == told.architecture


def test_the_part_that_sees_is_not_taken_for_the_text_part() -> None:
    made = preset_of_config(GEMMA_3_4B, "google/gemma-3-4b-it", "config.json")
    assert (made.architecture.num_hidden_layers, made.architecture.hidden_size) == (34, 2560)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 4}, "num_key_value_heads: the preset says 8, config.json says 4"),
        ({"hidden_size": None}, "hidden_size: the preset says 4096, config.json has none"),
        ({"vocab_size": "\x1b[31m"}, "vocab_size: the preset says 128256, config.json says \ufffd[31m"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings: the preset says False, config.json says True"),
        ({"attention_bias": True}, "attention_bias: the preset says False, config.json says True"),
        ({"max_position_embeddings": 8192}, "max_position_embeddings: the preset says 131072, config.json says 8192"),
        ({"quantization_config": {}}, "quantization_config: the preset says 16-bit weights, "
         "config.json says quantized already"),
        ({"architectures": ["MambaForCausalLM"]},
         "architectures: the preset says LlamaForCausalLM, config.json says MambaForCausalLM"),
        ({"architectures": []}, "architectures: the preset says LlamaForCausalLM, config.json has none"),
    ],
)  # fmt: skip
def test_each_number_that_contradicts_the_preset_is_named(changes: dict[str, object], said: str) -> None:
    told = preset("llama-3.1-8b-instruct")
    assert differences(told, config_of(told, **changes)) == (said,)


def test_every_difference_is_named() -> None:
    told = preset("llama-3.1-8b-instruct")
    found = differences(told, config_of(told, num_hidden_layers=16, intermediate_size=8192))
    assert [line.partition(":")[0] for line in found] == ["num_hidden_layers", "intermediate_size"]


def test_a_longer_context_than_told_is_no_difference() -> None:
    told = preset("mistral-nemo-12b-instruct")
    assert differences(told, config_of(told, max_position_embeddings=1_024_000)) == ()


def test_a_config_that_cannot_be_used_is_told_with_its_place_and_key() -> None:
    config = config_of(preset("phi-4"), hidden_size="wide")
    with pytest.raises(UsageError, match=r"here/config\.json: hidden_size"):
        preset_of_config(config, "someone/model", "here/config.json")


def write_weights(folder: Path, shapes: dict[str, list[int]]) -> None:
    entries = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps(entries)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())


@pytest.mark.parametrize(
    "beside",
    ["vision_tower.encoder.weight", "model.vision_tower.weight", "multi_modal_projector.weight", "lm_head.weight",
     "language_model.lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"],
)  # fmt: skip
def test_weights_that_text_does_not_pass_do_not_count(tmp_path: Path, beside: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    write_weights(tmp_path, {"language_model.model.embed_tokens.weight": [10, 4], beside: [10, 4]})
    assert count_parameters(tmp_path, tied=True) == 40


def test_a_multimodal_folder_gives_its_text_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3_4B), encoding="utf-8")
    write_weights(tmp_path, {"language_model.model.norm.weight": [2560], "vision_tower.weight": [9]})
    made = preset_of_folder(tmp_path)
    assert (made.family, made.parameters) == ("gemma3", 2560)
    assert made.download_bytes == (tmp_path / "model.safetensors").stat().st_size


def test_a_folder_whose_files_hold_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_3_4B), encoding="utf-8")
    write_weights(tmp_path, {"vision_tower.weight": [9]})
    with pytest.raises(UsageError, match="hold no weights"):
        preset_of_folder(tmp_path)
