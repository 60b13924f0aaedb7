"""Llama 2 and 3, Mistral, SmolLM2: GGUF architecture `llama`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import gguf
import torch
from torch import Tensor

from engine.worker.gguf.family import Config, Family, head_dim, rope


def interleave_heads(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection, from halves to pairs.

    Hugging Face rotates dimension i with i + d/2, llama.cpp's `llama` rotates 2i with 2i + 1; so row (h, half, i)
    moves to (h, i, half). `weight` is (heads · d, …), the result has the same shape.
    """
    halves = weight.unflatten(0, (heads, 2, -1))  # (heads, 2, d/2, …)
    return halves.transpose(1, 2).flatten(0, 2)


def _transform(name: str, tensor: Tensor, config: Config) -> Tensor:
    module = name.rsplit(".", 2)[-2]
    if module == "q_proj":
        return interleave_heads(tensor, config["num_attention_heads"])
    if module == "k_proj":
        return interleave_heads(tensor, config.get("num_key_value_heads") or config["num_attention_heads"])
    return tensor


def _parameters(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(head_dim(config))


def llama3_factors(config: Config) -> Tensor:
    """What each rotary frequency is divided by, (d/2,) fp32.

    Frequencies whose wavelength is short against the original context stay, long ones are divided by `factor`,
    between them it is interpolated: the rule of Llama 3.1's release,
    https://github.com/meta-llama/llama-models/blob/main/models/llama3/reference_impl/model.py
    """
    settings, width = rope(config), head_dim(config)
    factor = float(settings.get("factor", 8.0))
    low, high = float(settings.get("low_freq_factor", 1.0)), float(settings.get("high_freq_factor", 4.0))
    context = settings.get("original_max_position_embeddings", 8192)
    frequencies = 1.0 / settings["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    turns = context / (2 * math.pi / frequencies)  # wavelengths that fit into the original context
    smooth = (turns - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return torch.where(turns > high, 1.0, torch.where(turns < low, factor, between))


def _extra(config: Config) -> Iterator[tuple[str, Tensor]]:
    if rope(config)["rope_type"] == "llama3":
        yield "rope_freqs.weight", llama3_factors(config)


FAMILY = Family(
    gguf.MODEL_ARCH.LLAMA,
    ("LlamaForCausalLM", "MistralForCausalLM"),
    ("llama-bpe", "smollm", "tekken"),
    _transform,
    _parameters,
    _extra,
)
