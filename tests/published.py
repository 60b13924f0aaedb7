"""Peaks of GPU memory that others published, and what the ledger says to the same settings.

Run `python -m tests.published` for the table that docs/memory.md shows; a test compares the two. Stacks differ from
finetui's, and each row says in which way; the ledger's own terms are used for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from engine import presets
from engine.activations import shape_of
from engine.config import Architecture, Preset
from engine.families import FAMILIES
from engine.gpu import pretend
from engine.paths import builtin_presets
from engine.units import GIB
from engine.vram import Budget, ledger

WHOLE_LOGITS = 14
"""Bytes a logit where all are made at once: in 16 bits, in float32, and their gradients (transformers' own loss)."""

FLOAT32_LOGITS = 16
"""The same where the head was made float32, as peft's `prepare_model_for_kbit_training` does."""

PLAIN_LOGITS = 8
"""The same where nothing is made float32, as in the code that came with the first Qwen."""


@dataclass(frozen=True)
class Published:
    """One published peak."""

    source: str
    settings: str
    preset: str
    changes: dict[str, str]
    size: float
    """Of the published peak, in `unit`."""
    unit: Literal["GiB", "GB"] = "GiB"
    context: bool = False
    """True if the figure counts the CUDA context and what the allocator reserves, as the driver sees it."""
    logits: int = 0
    """Bytes a logit of a stack that makes all of them at once; 0: in tiles, as finetui does."""
    float32_head: bool = False
    """True if embedding and head were made float32."""
    adapter_bytes: int = 8
    """Bytes a trained weight with its gradient and moments: 8 in bf16, 16 in float32."""

    @property
    def published_bytes(self) -> float:
        return self.size * (GIB if self.unit == "GiB" else 1e9)

    def ledger_bytes(self) -> int:
        """The ledger's sum for the row's settings and stack."""
        preset = presets.override(_preset(self.preset), self.changes)
        budget = ledger(preset, pretend(80 * GIB))
        left_out = () if self.context else ("CUDA context", "fragmentation")
        total = sum(part.size_bytes for part in budget.parts if part.name not in left_out)
        weights = FAMILIES[preset.family].lora_parameters(preset.architecture, preset.lora.rank)
        own = 8 if preset.train.quantization == "nf4" else 18
        total += (self.adapter_bytes - own) * weights + (_logits(preset, budget, self.logits) if self.logits else 0)
        embeddings = FAMILIES[preset.family].embedding_parameters(preset.architecture)
        return total + (2 * embeddings if self.float32_head else 0)

    @property
    def error(self) -> float:
        """Of the ledger, as a share of the published peak."""
        return self.ledger_bytes() / self.published_bytes - 1


def _logits(preset: Preset, budget: Budget, logit_bytes: int) -> int:
    """What all logits at once need beyond the moment that the ledger took for the peak."""
    shape = shape_of(preset, on_cpu=False)
    names = ("peak of one layer", "dequantized weights", "loss at the head")
    moment = sum(part.size_bytes for part in budget.parts if part.name in names)
    whole = shape.tokens * (logit_bytes * preset.architecture.vocab_size + 12 * preset.architecture.hidden_size)
    return max(whole - moment, 0)


QWEN_7B = Architecture(
    num_hidden_layers=32,
    hidden_size=4096,
    num_attention_heads=32,
    num_key_value_heads=32,
    head_dim=128,
    intermediate_size=11_008,
    vocab_size=151_936,
    tie_word_embeddings=False,
)
"""The first Qwen 7B (huggingface.co/Qwen/Qwen-7B, config.json: intermediate_size 22016 counts gate and up)."""


@cache
def _preset(name: str) -> Preset:
    file = "qwen2.5-7b-instruct" if name == "qwen-7b" else name
    preset = presets.load_preset(builtin_presets() / f"{file}.toml")
    return preset.model_copy(update={"architecture": QWEN_7B}) if name == "qwen-7b" else preset


ONE = {"micro_batch_size": "1", "gradient_checkpointing": "true"}
TWO = {"micro_batch_size": "2", "gradient_checkpointing": "true"}
OFFLOADED = {**ONE, "gradient_checkpointing_offload": "true"}
FACTORY: dict[str, Any] = {"unit": "GB", "context": True, "adapter_bytes": 16}
LENGTHS = (1024, 2048, 4096, 8192, 16_384)


def _series(
    source: str, preset: str, settings: dict[str, str], sizes: Mapping[int, float], **stack: Any
) -> list[Published]:
    """One row for each length of `sizes`, in tokens."""
    rank = settings["rank"]
    return [
        Published(source, f"r{rank}, {length:,}", preset, {**settings, "max_length": str(length)}, size, **stack)
        for length, size in sizes.items()
    ]


def _rows() -> list[Published]:
    eight, seven = "llama-3.1-8b-instruct", "llama-2-7b-chat"
    tune = {**TWO, "rank": "8"}
    plain = {**tune, "max_length": "2048", "quantization": "none"}
    hf, offloaded = (
        dict(zip(LENGTHS, (6, 7, 9, 12, 19), strict=True)),
        dict(zip(LENGTHS, (5, 6, 7, 8, 10), strict=True)),
    )
    qwen = dict(zip(LENGTHS[:4], (12.3, 13.9, 16.9, 23.5), strict=True))
    cards = {21_848: 12, 40_724: 16, 78_475: 24, 342_733: 80}
    cards_hf = {932: 12, 2_551: 16, 5_789: 24, 28_454: 80}
    upcast = {"logits": FLOAT32_LOGITS, "float32_head": True}
    return [
        Published("torchtune README", "r8, 2 × 2,048", eight, {**tune, "max_length": "2048"}, 7.4),
        Published("torchtune README", "16 bits, r8, 2 × 2,048", eight, plain, 16.2),
        Published("torchtune README", "r8, 2 × 4,096", "llama-3.2-3b-instruct", {**tune, "max_length": "4096"}, 4.6),
        *_series("LLaMA-Factory wiki, HF", seven, {**ONE, "rank": "8"}, hf, logits=WHOLE_LOGITS, **FACTORY),
        *_series("LLaMA-Factory wiki, Unsloth", seven, {**OFFLOADED, "rank": "8"}, offloaded, **FACTORY),
        *_series("Qwen README", "qwen-7b", {**ONE, "rank": "64"}, qwen, logits=PLAIN_LOGITS, **FACTORY),
        *_series("Unsloth, longest row", eight, {**OFFLOADED, "rank": "32"}, cards, context=True),
        *_series("HF by Unsloth, longest row", eight, {**ONE, "rank": "32"}, cards_hf, context=True, **upcast),
    ]


def table() -> list[str]:
    """The published figures beside the ledger's, as lines of Markdown."""
    head = ["| source | model | settings | published | ledger | error |", "|---|---|---|---:|---:|---:|"]
    return head + [_line(row) for row in _rows()]


def _line(row: Published) -> str:
    unit = GIB if row.unit == "GiB" else 1e9
    ours = f"{row.ledger_bytes() / unit:.1f} {row.unit}"
    return f"| {row.source} | {row.preset} | {row.settings} | {row.size:g} {row.unit} | {ours} | {row.error:+.0%} |"


ROWS = _rows()

if __name__ == "__main__":
    print("\n".join(table()))
