"""Families: which there are, what each counts, and which kinds of models are refused with what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine import presets
from engine.config import Architecture
from engine.errors import MissingError
from engine.families import FAMILIES, MISSING, Family, by_architecture
from engine.paths import builtin_presets
from engine.units import format_bytes, format_count

SMALL = Architecture(
    num_hidden_layers=2,
    hidden_size=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    intermediate_size=16,
    vocab_size=10,
    tie_word_embeddings=True,
)
ATTENTION = 8 * 16 + 2 * 8 * 8 + 16 * 8  # queries, keys and values, output
MLP = 3 * 8 * 16


@pytest.fixture(scope="module")
def families_in_use() -> set[str]:
    return {presets.load_preset(path).family for path in builtin_presets().rglob("*.toml")}


def test_each_family_has_a_preset(families_in_use: set[str]) -> None:
    assert families_in_use == set(FAMILIES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_counts_its_linears(name: str) -> None:
    assert FAMILIES[name].linear_parameters(SMALL) == 2 * (ATTENTION + MLP)


@pytest.mark.parametrize(
    ("name", "a_layer"),
    [
        ("llama", 2 * 8),
        ("mistral", 2 * 8),
        ("phi3", 2 * 8),
        ("smollm3", 2 * 8),
        ("granite", 2 * 8),
        ("qwen2", 2 * 8 + (4 + 2 * 2) * 4),  # a bias for each query, key and value
        ("qwen3", 2 * 8 + 2 * 4),  # one norm for all heads of the queries, one for those of the keys
        ("olmo2", 2 * 8 + (4 + 2) * 4),  # norms over all heads at once
        ("gemma2", 4 * 8),  # before and after attention, before and after the MLP
        ("gemma3", 4 * 8 + 2 * 4),
    ],
)
def test_a_family_counts_its_norms_and_biases(name: str, a_layer: int) -> None:
    assert FAMILIES[name].small_parameters(SMALL) == 2 * a_layer + 8


def test_biases_that_a_config_asks_for_count() -> None:
    plain = FAMILIES["llama"].parameters(SMALL)
    biased = SMALL.model_copy(update={"attention_bias": True, "mlp_bias": True})
    assert FAMILIES["llama"].parameters(biased) - plain == 2 * (16 + 8 + 8 + 8 + 16 + 16 + 8)


def test_an_untied_head_counts_once_more() -> None:
    untied = SMALL.model_copy(update={"tie_word_embeddings": False})
    assert FAMILIES["llama"].parameters(untied) - FAMILIES["llama"].parameters(SMALL) == 10 * 8


def test_a_mixture_counts_all_its_experts_but_a_token_passes_a_few() -> None:
    mixture = SMALL.model_copy(update={"num_local_experts": 4, "num_experts_per_tok": 2})
    family = FAMILIES["mixtral"]
    assert family.parameters(mixture) == 2 * (ATTENTION + 4 * MLP + 2 * 8 + 4 * 8) + 10 * 8 + 8
    assert family.active_parameters(mixture) == 2 * (ATTENTION + 2 * MLP)
    assert family.lora_parameters(mixture, 1) == 2 * (8 + 16 + 2 * (8 + 8) + 16 + 8)  # the attention's four linears


def test_fused_linears_share_their_adapters_input() -> None:
    fused, split = (FAMILIES[name].lora_parameters(SMALL, 1) for name in ("phi3", "llama"))
    assert split - fused == 2 * (2 * 8 + 8)  # A of two of three projections, and of one of gate and up


def test_an_architecture_of_half_a_mixture_is_refused() -> None:
    with pytest.raises(ValidationError, match="belong together"):
        Architecture.model_validate({**SMALL.model_dump(), "num_local_experts": 8})


def test_an_architecture_that_was_saved_before_a_field_was_added_still_loads() -> None:
    newer = {"attention_bias", "mlp_bias", "num_local_experts", "num_experts_per_tok"}
    assert Architecture.model_validate(SMALL.model_dump(exclude=newer)) == SMALL


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_config_is_of_the_first_family_that_has_its_class(family: Family) -> None:
    for name in family.architectures:
        assert name in by_architecture({"architectures": [name], "model_type": "?"}).architectures


def test_a_config_without_a_class_is_told_by_its_model_type() -> None:
    assert by_architecture({"model_type": "gemma3_text"}).name == "gemma3"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["FalconForCausalLM"], "model_type": "falcon"}, "LayerNorm"),
        ({"architectures": ["BioGptForCausalLM"], "model_type": "biogpt"}, "llama.cpp"),
        ({"architectures": ["MambaForCausalLM"], "model_type": "mamba"}, "MambaForCausalLM: finetui has no shapes"),
        ({"architectures": [7], "model_type": ["x"]}, "names no architecture"),
        ({}, "names no architecture"),
    ],
)
def test_another_kind_of_model_is_refused_with_what_is_missing(config: dict[str, object], said: str) -> None:
    with pytest.raises(MissingError) as caught:
        by_architecture(config)
    assert said in caught.value.detail
    assert "LlamaForCausalLM" in caught.value.hints[0]


def test_no_kind_of_model_is_both_taken_and_missing() -> None:
    assert {kind for family in FAMILIES.values() for kind in family.model_types}.isdisjoint(MISSING)


def docs() -> str:
    return (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(builtin_presets().glob("*.toml")), ids=lambda path: path.stem)
def test_the_page_of_models_says_what_the_preset_says(path: Path) -> None:
    preset = presets.load_preset(path)
    cells = (
        f"`{preset.name}`",
        format_count(preset.parameters),
        format_bytes(preset.download_bytes),
        f"{preset.context_length:,}",
        preset.licence + (", gated" if preset.gated else ""),
        preset.good_at,
    )
    assert f"| {' | '.join(cells)} |" in docs()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_page_of_models_says_what_can_be_exported(family: Family) -> None:
    line = next(line for line in docs().splitlines() if line.startswith(f"| `{family.name}` |"))
    assert line.endswith("| yes |" if family.exports else "| not yet |")
