"""Pretraining of the tiny assistant on two CPU cores."""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from demo.tasks import FIRST, SECOND, Mixture, pretraining_row
from demo.tokenizer import BOS, END, EOS, EOT, MAX_POSITIONS, PAD, START, id_of
from demo.world import Row

IGNORED = -100
# The 16 levels of NormalFloat4 (Dettmers et al. 2023, QLoRA, appendix E).
NF4_LEVELS = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
NF4_BLOCK = 64


@dataclass(frozen=True)
class Recipe:
    """One course: what is taught, how long and how hard. `noise_from` is the share of it that goes undisturbed."""

    seed: int
    steps: int
    mixture: Mixture = FIRST
    batch: int = 48
    learning_rate: float = 3e-3
    warmup: int = 60
    weight_decay: float = 0.1
    user_weight: float = 0.15
    noise_from: float = 0.5


def courses(seed: int) -> tuple[Recipe, ...]:
    return (
        Recipe(seed, 1400),
        Recipe(seed + 1, 700, SECOND, learning_rate=2e-3, warmup=20, noise_from=0.0),
    )


Batch = tuple[Tensor, Tensor]  # ids (B, T) and the loss weight of each id (B, T)


def encode(tokenizer: Tokenizer, row: Row, user_weight: float) -> tuple[list[int], list[float]]:
    """Token ids and loss weights; what the assistant says counts fully, what is said to it only a little."""
    ids, weights = [id_of(tokenizer, BOS)], [0.0]
    for message in row:
        header = f"{START}{message['role']}{END}\n\n"
        for text, speaks in ((header, False), (message["content"] + EOT, message["role"] == "assistant")):
            piece = tokenizer.encode(text, add_special_tokens=False).ids
            ids += piece
            weights += [1.0 if speaks else user_weight] * len(piece)
    return ids, weights


def collate(rows: list[tuple[list[int], list[float]]], pad: int) -> Batch:
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([i + [pad] * (width - len(i)) for i, _ in rows])
    weights = torch.tensor([w + [0.0] * (width - len(w)) for _, w in rows])
    return ids, weights


def batches(tokenizer: Tokenizer, recipe: Recipe) -> Iterator[Batch]:
    """Endless batches of rows of about the same length, so that little of a batch is padding."""
    rng = random.Random(recipe.seed)
    pad = id_of(tokenizer, PAD)
    while True:
        rows = [
            encode(tokenizer, pretraining_row(rng, recipe.mixture), recipe.user_weight)
            for _ in range(recipe.batch * 16)
        ]
        rows.sort(key=lambda row: len(row[0]))
        groups = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(groups)
        yield from (collate(group, pad) for group in groups)


def fake_nf4(weight: Tensor) -> Tensor:
    """The weight (out, in) as NF4 in blocks of 64 would give it back."""
    levels = torch.tensor(NF4_LEVELS)
    blocks = weight.reshape(-1, NF4_BLOCK)
    scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-8)
    nearest = torch.bucketize(blocks / scale, (levels[1:] + levels[:-1]) / 2)
    return (levels[nearest] * scale).reshape(weight.shape)


def with_noise(weight: Tensor) -> Tensor:
    return weight + torch.randn_like(weight) * weight.std() * 0.12


@contextmanager
def disturbed(model: nn.Module, step: int) -> Iterator[None]:
    """Quantized or noisy linear weights for one forward and backward; the gradient goes to the clean ones.

    The demo is quantized to 4 bits twice (for training, then for the export), and so small a model would feel
    it, had it not grown up with it.
    """
    disturb = (fake_nf4, with_noise)[step % 2]
    weights = [m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    clean = [weight.data for weight in weights]
    for weight in weights:
        weight.data = disturb(weight.data)
    try:
        yield
    finally:
        for weight, data in zip(weights, clean, strict=True):
            weight.data = data


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    """Widths are multiples of 256: llama.cpp's K-quants work on blocks of 256 along a row."""
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=id_of(tokenizer, BOS),
        eos_token_id=[id_of(tokenizer, EOT), id_of(tokenizer, EOS)],
        pad_token_id=id_of(tokenizer, PAD),
    )


def loss_of(model: LlamaForCausalLM, batch: Batch) -> Tensor:
    ids, weights = batch
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits  # (B, T-1, vocab)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()


def learning_rate_at(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup)
    return recipe.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def optimizer_for(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)


def train_step(model: LlamaForCausalLM, optimizer: torch.optim.AdamW, batch: Batch, recipe: Recipe, step: int) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, recipe)
    optimizer.zero_grad(set_to_none=True)
    if step >= recipe.noise_from * recipe.steps:
        with disturbed(model, step):
            loss = loss_of(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
    else:
        loss = loss_of(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())


def new_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(model_config(tokenizer))


def pretrain(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe) -> None:
    """Take the model through one course and leave it rounded to bf16, as a file would. Loss goes to stderr."""
    model.train()
    optimizer = optimizer_for(model, recipe)
    start = time.monotonic()
    for step, batch in zip(range(recipe.steps), batches(tokenizer, recipe), strict=False):
        loss = train_step(model, optimizer, batch, recipe, step)
        if step % 25 == 0 or step == recipe.steps - 1:
            passed = time.monotonic() - start
            print(f"step {step:5d}/{recipe.steps}  loss {loss:.4f}  {passed:.0f} s", file=sys.stderr, flush=True)
    model.to(torch.bfloat16).to(torch.float32)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Weights in bf16, and a generation config that stops at the end of a turn and does not sample."""
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    # safetensors lets only the owner read; an installed demo is read by everybody.
    (folder / "model.safetensors").chmod(0o644)
