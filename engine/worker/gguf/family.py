"""What the GGUF form of a model family needs; one small file per family, and the table in `families.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from torch import Tensor

from engine.errors import RunError
from engine.text import clean_line

Config = Mapping[str, Any]
"""A model's `config.json`."""


def _as_is(_name: str, tensor: Tensor, _config: Config) -> Tensor:
    return tensor


def _nothing(*_arguments: object) -> None:
    return None


def _no_tensors(_config: Config) -> Iterable[tuple[str, Tensor]]:
    return ()


@dataclass(frozen=True)
class Family:
    """How one architecture of llama.cpp is written."""

    arch: gguf.MODEL_ARCH
    architectures: tuple[str, ...]
    """The names in `config.json`'s `architectures`."""
    pre: tuple[str, ...]
    """Likely values of `tokenizer.ggml.pre`, tried first."""
    transform: Callable[[str, Tensor, Config], Tensor] = _as_is
    """The tensor as llama.cpp wants it, given its name in the checkpoint."""
    parameters: Callable[[gguf.GGUFWriter, Config], None] = _nothing
    """Metadata beside those that every family has."""
    additions: Callable[[Config], Iterable[tuple[str, Tensor]]] = _no_tensors
    """Tensors that the checkpoint does not have, by their GGUF name, fp32."""

    @property
    def name(self) -> str:
        """llama.cpp's name of the architecture."""
        return str(gguf.MODEL_ARCH_NAMES[self.arch])


def head_dim(config: Config) -> int:
    """Width of one attention head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope(config: Config) -> dict[str, Any]:
    """Rotary embedding settings in one form: transformers 5 has `rope_parameters`, before it were two keys."""
    settings = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    settings.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    settings["rope_type"] = settings.get("rope_type") or settings.get("type") or "default"
    return settings


def write_parameters(writer: gguf.GGUFWriter, config: Config) -> None:
    """The metadata that every family has. Raises `RunError` for rotary scaling that llama.cpp would not do."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config.get("head_dim") is not None:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    _write_rope(writer, rope(config))


def _write_rope(writer: gguf.GGUFWriter, settings: dict[str, Any]) -> None:
    writer.add_rope_freq_base(settings["rope_theta"])
    match settings["rope_type"]:
        case "default" | "llama3":  # llama3: as a tensor of factors, see llama.py
            pass
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(settings["factor"])
        case "yarn":
            _write_yarn(writer, settings)
        case other:
            raise RunError(
                "This model's rotary scaling cannot be exported",
                f"rope_type {clean_line(str(other))}",
                ("Exportable are: default, llama3, linear, yarn.",),
            )


def _write_yarn(writer: gguf.GGUFWriter, settings: dict[str, Any]) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(settings["factor"])
    writer.add_rope_scaling_orig_ctx_len(settings["original_max_position_embeddings"])
    if (factor := settings.get("attention_factor")) is not None:
        writer.add_rope_scaling_yarn_attn_factor(factor)
    if (fast := settings.get("beta_fast")) is not None:
        writer.add_rope_scaling_yarn_beta_fast(fast)
    if (slow := settings.get("beta_slow")) is not None:
        writer.add_rope_scaling_yarn_beta_slow(slow)
