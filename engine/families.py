"""Model families: the facts about an architecture that neither a preset nor a `config.json` spells out.

The shapes are those of transformers 5; tests/worker/test_family_shapes.py builds each family there and compares. A
layer's linears are what NF4 makes small and what LoRA adapts; whatever else a model has stays in 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

from engine.config import Architecture
from engine.errors import MissingError
from engine.text import clean_line


@dataclass(frozen=True)
class Family:
    """One architecture as transformers and llama.cpp implement it."""

    name: str
    architectures: tuple[str, ...]
    """The classes that `config.json` names under `architectures`."""
    model_types: tuple[str, ...]
    """What `config.json` says under `model_type`, which tells the family where no class is named."""
    end_of_turn: str
    """The token that ends an answer in the family's own instruct models; a tokenizer may say otherwise."""
    gguf: str
    """llama.cpp's name of the architecture."""
    exports: bool = False
    """True if stage gguf can write it."""
    norms: int = 2
    """Norms of the hidden state in a layer: before attention and MLP, after them, or both."""
    qkv_bias: bool = False
    """True if queries, keys and values have a bias whatever `attention_bias` says."""
    qk_norm: Literal["", "head", "projection"] = ""
    """What queries and keys are normalized over: each head with the same weights, or all heads at once."""
    fused: bool = False
    """True if queries, keys and values are one linear, and the MLP's gate and up another."""
    eager_attention: bool = False
    """True if attention caps its scores, which only the plain code does: it keeps T × T scores a head."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What transformers fills in where a `config.json` leaves it out, beside what is false or empty."""

    def linear_shapes(self, arch: Architecture) -> dict[str, tuple[int, int]]:
        """`{name: (in_features, out_features)}` of one decoder layer's linears: what LoRA adapts."""
        return {**self._attention_shapes(arch), **({} if arch.num_local_experts else self._mlp_shapes(arch))}

    def _attention_shapes(self, arch: Architecture) -> dict[str, tuple[int, int]]:
        hidden = arch.hidden_size
        queries = arch.num_attention_heads * arch.head_dim
        keys = arch.num_key_value_heads * arch.head_dim
        if self.fused:
            return {"qkv_proj": (hidden, queries + 2 * keys), "o_proj": (queries, hidden)}
        return {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
        }

    def _mlp_shapes(self, arch: Architecture) -> dict[str, tuple[int, int]]:
        hidden, mlp = arch.hidden_size, arch.intermediate_size
        if self.fused:
            return {"gate_up_proj": (hidden, 2 * mlp), "down_proj": (mlp, hidden)}
        return {"gate_proj": (hidden, mlp), "up_proj": (hidden, mlp), "down_proj": (mlp, hidden)}

    def linear_parameters(self, arch: Architecture) -> int:
        """Weights in the decoder's linear layers, without biases: what NF4 makes small."""
        return arch.num_hidden_layers * sum(prod(shape) for shape in self.linear_shapes(arch).values())

    def expert_parameters(self, arch: Architecture) -> int:
        """Weights of a mixture's experts: transformers keeps a layer's in one tensor, which NF4 and LoRA pass by."""
        an_expert = sum(prod(shape) for shape in self._mlp_shapes(arch).values())
        return arch.num_hidden_layers * (arch.num_local_experts or 0) * an_expert

    def active_parameters(self, arch: Architecture) -> int:
        """Weights of the decoder that one token is multiplied with: its linears, and the experts that it goes to."""
        if not (arch.num_local_experts and arch.num_experts_per_tok):
            return self.linear_parameters(arch)
        experts = self.expert_parameters(arch) // arch.num_local_experts * arch.num_experts_per_tok
        return self.linear_parameters(arch) + experts

    def embedding_parameters(self, arch: Architecture) -> int:
        """Weights of the embedding and, if it is not the same tensor, of the head."""
        return arch.vocab_size * arch.hidden_size * (1 if arch.tie_word_embeddings else 2)

    def small_parameters(self, arch: Architecture) -> int:
        """The rest: norms, biases, and the routers of a mixture."""
        router = (arch.num_local_experts or 0) * arch.hidden_size
        a_layer = self.norms * arch.hidden_size + self._head_norms(arch) + self._biases(arch) + router
        return arch.num_hidden_layers * a_layer + arch.hidden_size

    def _head_norms(self, arch: Architecture) -> int:
        heads = {"": 0, "head": 2, "projection": arch.num_attention_heads + arch.num_key_value_heads}
        return heads[self.qk_norm] * arch.head_dim

    def _biases(self, arch: Architecture) -> int:
        """One bias for each output of the linears that have them."""
        attention = self._attention_shapes(arch)
        biased = attention if arch.attention_bias else {}
        if self.qkv_bias:
            biased = {name: shape for name, shape in attention.items() if name != "o_proj"}
        return sum(out for _, out in (*biased.values(), *(self._mlp_shapes(arch).values() if arch.mlp_bias else ())))

    def parameters(self, arch: Architecture) -> int:
        """Every weight of the model that learns from text; tied embeddings count once."""
        linears = self.linear_parameters(arch) + self.expert_parameters(arch)
        return linears + self.embedding_parameters(arch) + self.small_parameters(arch)

    def lora_parameters(self, arch: Architecture, rank: int) -> int:
        """Weights of an adapter of that rank: A is (rank, in), B is (out, rank) for each linear."""
        return arch.num_hidden_layers * sum(rank * sum(shape) for shape in self.linear_shapes(arch).values())


_GEMMA = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("llama", ("LlamaForCausalLM",), ("llama",), "<|eot_id|>", "llama", exports=True),
        Family("llama2", ("LlamaForCausalLM",), ("llama",), "</s>", "llama", exports=True),  # Llama 2's turns
        Family("smollm", ("LlamaForCausalLM",), ("llama",), "<|im_end|>", "llama", exports=True),  # ChatML's turns
        Family("mistral", ("MistralForCausalLM",), ("mistral",), "</s>", "llama", exports=True,
               defaults={"num_key_value_heads": 8}),
        Family("mixtral", ("MixtralForCausalLM",), ("mixtral",), "</s>", "llama",
               defaults={"num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}),
        Family("qwen2", ("Qwen2ForCausalLM",), ("qwen2",), "<|im_end|>", "qwen2", exports=True, qkv_bias=True),
        Family("qwen3", ("Qwen3ForCausalLM",), ("qwen3",), "<|im_end|>", "qwen3", exports=True, qk_norm="head",
               defaults={"head_dim": 128}),
        Family("gemma2", ("Gemma2ForCausalLM",), ("gemma2",), "<end_of_turn>", "gemma2", norms=4,
               eager_attention=True, defaults={**_GEMMA, "vocab_size": 256_000}),
        Family("gemma3", ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"), ("gemma3_text", "gemma3"),
               "<end_of_turn>", "gemma3", norms=4, qk_norm="head",
               defaults={**_GEMMA, "vocab_size": 262_208, "max_position_embeddings": 131_072}),
        Family("phi3", ("Phi3ForCausalLM",), ("phi3",), "<|end|>", "phi3", fused=True),
        Family("phi4", ("Phi3ForCausalLM",), ("phi3",), "<|im_end|>", "phi3", fused=True),  # ChatML's turns, nearly
        Family("smollm3", ("SmolLM3ForCausalLM",), ("smollm3",), "<|im_end|>", "smollm3",
               defaults={"num_key_value_heads": 4, "tie_word_embeddings": True}),
        Family("olmo2", ("Olmo2ForCausalLM",), ("olmo2",), "<|endoftext|>", "olmo2", qk_norm="projection"),
        Family("granite", ("GraniteForCausalLM",), ("granite",), "<|end_of_text|>", "granite"),
    )
}  # fmt: skip
"""Two families of one architecture differ in their turns; what a `config.json` names is the first of them."""

WIRED_OTHERWISE = "its layers are wired otherwise (a plain MLP without a gate, LayerNorm with biases)"
MIXTURE = "it is a mixture of experts that finetui has no shapes for"

MISSING: dict[str, str] = {
    "falcon": f"{WIRED_OTHERWISE}, and finetui cannot write it as GGUF; Falcon 3 is a Llama inside and is taken",
    "biogpt": f"{WIRED_OTHERWISE}, it has no chat template, and llama.cpp, which Ollama runs on, does not know it",
    "gpt2": f"{WIRED_OTHERWISE}, and it has no chat template",
    "gpt_neox": WIRED_OTHERWISE,
    "phi": WIRED_OTHERWISE,
    "gemma": "it is Gemma 1; Gemma 2 and 3 are taken",
    "qwen2_moe": MIXTURE,
    "qwen3_moe": MIXTURE,
    "olmo": "it is OLMo 1; OLMo 2 is taken",
}
"""What finetui lacks for some kinds of models, by their `model_type`."""


def by_architecture(config: Mapping[str, Any]) -> Family:
    """The family of a model's `config.json`. Raises `MissingError` with what is missing and what is supported."""
    first = named_architecture(config)
    for family in FAMILIES.values():
        if first in family.architectures or (first is None and config.get("model_type") in family.model_types):
            return family
    raise _not_supported(first, config.get("model_type"))


def named_architecture(config: Mapping[str, Any]) -> str | None:
    """The first class that a `config.json` names, or None."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else None


def _not_supported(first: str | None, kind: object) -> MissingError:
    said = f"its config.json says {clean_line(first)}" if first else "its config.json names no architecture"
    known = isinstance(kind, str) and kind in MISSING
    why = MISSING[str(kind)] if known else "finetui has no shapes of its layers, so it cannot say what fits"
    supported = sorted({name for family in FAMILIES.values() for name in family.architectures})
    return MissingError(
        "This kind of model is not supported yet",
        f"{said}: {why}",
        (f"Supported: {', '.join(supported)}.", "Choose another model: finetui presets lists some."),
    )
