"""Model families: the facts about an architecture that neither a preset nor a `config.json` spells out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.config import Architecture
from engine.errors import MissingError
from engine.text import clean_line

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder block of every family here: what NF4 quantizes and what LoRA adapts."""


@dataclass(frozen=True)
class Family:
    """One architecture as transformers and llama.cpp implement it."""

    name: str
    architecture: str
    """The class that `config.json` names under `architectures`."""
    end_of_turn: str
    """The token that ends an answer in the family's own instruct models; a tokenizer may say otherwise."""
    qkv_bias: bool = False
    """True if the projections to queries, keys and values have a bias."""
    qk_norm: bool = False
    """True if queries and keys are normalized per head."""
    lora_targets: tuple[str, ...] = LINEARS
    """Names of the modules that LoRA adapts: all linear layers of the decoder."""

    def linear_shapes(self, arch: Architecture) -> dict[str, tuple[int, int]]:
        """`{name: (in_features, out_features)}` of one decoder layer's linears."""
        hidden, mlp = arch.hidden_size, arch.intermediate_size
        queries = arch.num_attention_heads * arch.head_dim
        keys = arch.num_key_value_heads * arch.head_dim
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
            "gate_proj": (hidden, mlp),
            "up_proj": (hidden, mlp),
            "down_proj": (mlp, hidden),
        }

    def linear_parameters(self, arch: Architecture) -> int:
        """Weights in the decoder's linear layers, without biases: what NF4 makes small."""
        return arch.num_hidden_layers * sum(rows * columns for rows, columns in self.linear_shapes(arch).values())

    def embedding_parameters(self, arch: Architecture) -> int:
        """Weights of the embedding and, if it is not the same tensor, of the head."""
        return arch.vocab_size * arch.hidden_size * (1 if arch.tie_word_embeddings else 2)

    def small_parameters(self, arch: Architecture) -> int:
        """Norms and biases: the rest."""
        a_layer = 2 * arch.hidden_size
        if self.qkv_bias:
            a_layer += (arch.num_attention_heads + 2 * arch.num_key_value_heads) * arch.head_dim
        if self.qk_norm:
            a_layer += 2 * arch.head_dim
        return arch.num_hidden_layers * a_layer + arch.hidden_size

    def parameters(self, arch: Architecture) -> int:
        """Every weight of the model; tied embeddings count once."""
        return self.linear_parameters(arch) + self.embedding_parameters(arch) + self.small_parameters(arch)

    def lora_parameters(self, arch: Architecture, rank: int) -> int:
        """Weights of an adapter of that rank: A is (rank, in), B is (out, rank) for each target."""
        shapes = self.linear_shapes(arch)
        return arch.num_hidden_layers * sum(rank * sum(shapes[name]) for name in self.lora_targets)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llama", "LlamaForCausalLM", "<|eot_id|>"),
        Family("mistral", "MistralForCausalLM", "</s>"),
        Family("qwen2", "Qwen2ForCausalLM", "<|im_end|>", qkv_bias=True),
        Family("qwen3", "Qwen3ForCausalLM", "<|im_end|>", qk_norm=True),
        Family("smollm", "LlamaForCausalLM", "<|im_end|>"),  # Llama's layers, ChatML's turns
    )
}


def by_architecture(config: Mapping[str, Any]) -> Family:
    """The family of a model's `config.json`. Raises `MissingError` with what is supported."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    for family in FAMILIES.values():
        if family.architecture == first:
            return family
    supported = sorted({family.architecture for family in FAMILIES.values()})
    raise MissingError(
        "This kind of model is not supported yet",
        f"its config.json says {clean_line(str(first))}" if first else "its config.json names no architecture",
        (f"Supported: {', '.join(supported)}.", "Choose another model: finetui presets lists some."),
    )
