"""Families against transformers itself: each is built there, empty, and its weights and linears are counted.

Covered: which linears a layer has, their shapes, the sum of all weights, and which families can be written as GGUF. Not
covered: what a forward pass does.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from engine.config import Architecture  # noqa: E402
from engine.families import FAMILIES, Family  # noqa: E402

SMALL = Architecture(
    num_hidden_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=96,
    vocab_size=128,
    tie_word_embeddings=False,
)


def built(family: Family, arch: Architecture) -> torch.nn.Module:
    """The family's model in transformers, without memory behind its weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    told = {name: value for name, value in arch.model_dump().items() if value is not None}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family.model_types[0], **told, **tokens)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def small(family: Family) -> Architecture:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if family.name == "mixtral" else {}
    return SMALL.model_copy(update=experts)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_family_counts_as_transformers_does(family: Family, tied: bool) -> None:
    arch = small(family).model_copy(update={"tie_word_embeddings": tied})
    model = built(family, arch)
    assert type(model).__name__ in family.architectures
    assert sum(weight.numel() for weight in model.parameters()) == family.parameters(arch)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_layers_linears_are_those_that_lora_and_nf4_find(family: Family) -> None:
    """Both take every `nn.Linear` but the head ("all-linear" of peft, `replace_with_bnb_linear` of transformers)."""
    arch = small(family)
    found = {
        name.rpartition(".")[2]: (module.in_features, module.out_features)
        for name, module in built(family, arch).named_modules()
        if type(module) is torch.nn.Linear and ".layers.0." in name
    }
    assert found == family.linear_shapes(arch)


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite"])
def test_biases_count_as_transformers_does(name: str) -> None:
    family, arch = FAMILIES[name], SMALL.model_copy(update={"attention_bias": True})
    assert sum(weight.numel() for weight in built(family, arch).parameters()) == family.parameters(arch)


def test_a_family_says_truly_whether_it_can_be_written_as_gguf() -> None:
    from engine.worker.gguf.families import FAMILIES as WRITTEN

    said = {name: family.gguf for family in FAMILIES.values() if family.exports for name in family.architectures}
    assert said == {name: family.name for name, family in WRITTEN.items()}
