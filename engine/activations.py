"""Bytes that training keeps for the backward pass, and the moments at which it needs the most.

Every term was read off tensors: tests/worker/test_saved_tensors.py builds each family small, counts what autograd
saves in a layer and what is alive at the peak, and compares. Letters: w bytes a number that is computed with (2 in bf16
on a GPU, 4 on the CPU), h hidden size, i MLP size, a all query heads together, k all key heads together.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import Architecture, Preset, TrainSpec
from engine.families import FAMILIES, Family

CHUNK_TOKENS, CHUNK_VOCABULARY = 4096, 32_768
"""The tile of logits that trl's loss computes at once; it is this wide even where the vocabulary is smaller."""

NORMED_AFTER = ("gemma2", "gemma3", "olmo2")
"""Families that normalize what attention and MLP give: the backward pass begins with that norm, in float32, while
everything that the layer keeps is still there."""

NORM_BACKWARD = 22
"""Bytes a channel and token at the peak of a norm's backward pass: what it kept, and gradients in float32."""

SCALED_RESIDUALS = ("granite",)
"""Families that multiply what they add to the residual stream, which makes one more gradient."""

WINDOWED = {"gemma3": 512}
"""Families where some layers see a window only: rows longer than the smallest one need an explicit mask."""


@dataclass(frozen=True)
class Shape:
    """One micro-batch in one model: what a token takes there, in bytes."""

    family: Family
    arch: Architecture
    rank: int
    dropout: bool
    rows: int
    length: int
    """Tokens of the longest row; the others are filled up to it."""
    width: int
    on_cpu: bool = False

    @property
    def tokens(self) -> int:
        """Of the micro-batch, filled up."""
        return self.rows * self.length

    @property
    def masked(self) -> bool:
        """True if attention needs an explicit mask: rows of different lengths, or a window."""
        return self.rows > 1 or self.length >= WINDOWED.get(self.family.name, self.length + 1)

    @property
    def queries(self) -> int:
        """a: width of all query heads."""
        return self.arch.num_attention_heads * self.arch.head_dim

    @property
    def keys(self) -> int:
        """k: width of all key heads."""
        return self.arch.num_key_value_heads * self.arch.head_dim

    def kept(self) -> int:
        """Bytes that a layer without checkpoint keeps from the forward to the backward pass."""
        a_token = self._norms() + self._attention() + self._mlp() + self._adapter()
        return self.tokens * a_token

    def checkpoint(self) -> int:
        """Bytes of a checkpoint: the input of its layer."""
        return self.tokens * self.width * self.arch.hidden_size

    def shared(self) -> int:
        """Bytes that all layers use: tables of the positions, ids, and masks where attention needs them."""
        kinds = 2 if self.family.eager_attention or self.family.name in WINDOWED else 1
        mask = (self.width if self.family.eager_attention else 1) * kinds * self.length
        needed = self.masked or self.family.eager_attention
        return self.tokens * (2 * self.width * self.arch.head_dim + 64 + mask * needed)

    def _norms(self) -> int:
        """Each norm keeps its input in float32 and one figure; heads that are normalized do so too."""
        heads = self.arch.num_attention_heads + self.arch.num_key_value_heads
        figures = {"": 0, "head": heads, "projection": 2}[self.family.qk_norm]
        normed = 4 * (self.queries + self.keys) + 4 * figures if self.family.qk_norm else 0
        return self.family.norms * (4 * self.arch.hidden_size + 4) + normed

    def _attention(self) -> int:
        """What the scores are computed from, and their outcome."""
        a, k, w = self.queries, self.keys, self.width
        heads = self.arch.num_attention_heads
        if self.family.eager_attention:  # keys and values repeated for each query head; tanh, softmax, its 16 bits
            scores = heads * self.length * (w + 4 + (w if w < 4 else 0))
            return 4 * a * w + scores
        values = a + 2 * k if self.family.fused else k  # a part of a fused projection keeps the whole of it
        output = 2 * a if self.family.fused and not self.dropout else a  # made contiguous for the adapter
        if self.masked:  # repeats keys and values too, and makes numbers of the mask in each layer
            return w * (3 * a + output + self.length) + 4 * heads
        return w * (a + k + values + output) + 4 * heads

    def _mlp(self) -> int:
        """Gate, its activation, up and their product; an expert's product is not kept, as nothing adapts its down."""
        h, i, w = self.arch.hidden_size, self.arch.intermediate_size, self.width
        if self.arch.num_local_experts and self.arch.num_experts_per_tok:
            an_expert = 3 * w * i + w * h + 40
            return self.arch.num_experts_per_tok * an_expert + 4 * self.arch.num_local_experts + 4
        return 4 * w * i

    def _adapter(self) -> int:
        """Inputs of the adapted linears, shared between those with the same, and what comes out of each first factor.

        With dropout each linear has an input of its own, with a mask.
        """
        h, i, w = self.arch.hidden_size, self.arch.intermediate_size, self.width
        linears = self.family.linear_shapes(self.arch)
        inner = self.rank * w * len(linears)
        if self.dropout:
            dropped = sum(size for size, _ in linears.values()) * (w + (w if self.on_cpu else 1))
            shared = 0 if self.arch.num_local_experts else w * i  # the product is replaced by its dropped form
            return inner + dropped - shared
        return inner + w * h * (1 if self.arch.num_local_experts else 2)

    def extra(self) -> int:
        """Bytes that one layer's backward pass needs at its peak beside what the layer keeps."""
        h, i, w = self.arch.hidden_size, self.arch.intermediate_size, self.width
        if self.arch.num_local_experts and self.arch.num_experts_per_tok:
            return self.tokens * max(13 * w * h, 3 * w * self.arch.num_experts_per_tok * i)
        a_token = w * h + 2 * w * i
        a_token += 2 * w * h if self.family.fused else 0
        a_token += w * h if self.family.name in SCALED_RESIDUALS else 0
        if self.family.name in NORMED_AFTER:
            a_token = max(a_token, NORM_BACKWARD * h)
        if self.family.eager_attention:
            a_token = max(a_token, self._eager_backward())
        return self.tokens * a_token

    def _eager_backward(self) -> int:
        """Gradients of the scores, when what the MLP and its norms keep is free again."""
        scores = self.arch.num_attention_heads * self.length * (self.width + 4)
        return scores - self._mlp() - (8 + self.width) * self.arch.hidden_size

    def head(self) -> int:
        """Bytes of the loss: a tile of logits, and the last hidden states with their gradient.

        A hidden state is there in w bytes, in float32 in the last norm, and its gradient in both. Without Triton, as on
        the CPU, a tile needs seven more of its size in float32.
        """
        rows = min(self.tokens, CHUNK_TOKENS)
        tile = rows * CHUNK_VOCABULARY * self.width
        if self.on_cpu:
            tile += 29 * rows * min(self.arch.vocab_size, CHUNK_VOCABULARY)
        return tile + self.tokens * self.arch.hidden_size * (8 + 2 * self.width)

    def last_norm(self) -> int:
        """Bytes of the last norm's backward pass, which comes before any layer's."""
        return self.tokens * self.arch.hidden_size * NORM_BACKWARD


def shape_of(preset: Preset, *, on_cpu: bool, longest: int | None = None) -> Shape:
    """The micro-batch that a preset trains on; `longest` tokens has its longest row, where that is known."""
    train = preset.train
    return Shape(
        family=FAMILIES[preset.family],
        arch=preset.architecture,
        rank=preset.lora.rank,
        dropout=preset.lora.dropout > 0,
        rows=train.micro_batch_size,
        length=train.max_length if longest is None else min(train.max_length, max(longest, 1)),
        width=4 if on_cpu else 2,
        on_cpu=on_cpu,
    )


def checkpointed_layers(train: TrainSpec, layers: int) -> int:
    """How many layers are computed twice: transformers checkpoints the first of every n."""
    return -(-layers // train.gradient_checkpointing_every) if train.gradient_checkpointing else 0


def last_is_checkpointed(train: TrainSpec, layers: int) -> bool:
    """True if the backward pass begins with a layer that must be computed again."""
    return train.gradient_checkpointing and (layers - 1) % train.gradient_checkpointing_every == 0
