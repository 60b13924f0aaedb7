"""The held-out rows: kept beside the run, and the loss on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.datasets.base import Message, Row
from engine.paths import partial
from engine.worker.answer import LONGEST_ANSWER, Question, inference, questions
from engine.worker.context import Context, sync
from engine.worker.tokenize import IGNORED, Encoded

BATCH_ROWS = 16
BATCH_TOKENS = 2048
"""Tokens in one forward pass: bounds the logits, which are the largest tensor by far."""

CHUNK = 256
"""Positions whose logits are in float32 at a time."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as `{"messages": […]}`, one a line, whole or not at all."""
    temporary = partial(path)
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({"messages": row.messages}, ensure_ascii=False) + "\n")
    sync(temporary)
    temporary.rename(path)


def chats(rows: Sequence[Row]) -> list[list[Message]]:
    """The rows' conversations."""
    return [row.messages for row in rows]


def askable(context: Context, tokenizer: Any, rows: Sequence[Row]) -> list[Question]:
    """The rows as questions; how many are left out is told. Raises `DataError` if the template refuses a row."""
    limit = context.plan.train.max_length
    asked = questions(tokenizer, chats(rows), limit)
    if len(asked) < len(rows):
        detail = f"Asked is what ends with an answer of at most {LONGEST_ANSWER} tokens, and has {limit:,} with it."
        context.finding("warning", f"{len(rows) - len(asked):,} of {len(rows):,} held-out rows are not asked", detail)
    return asked


def loss(model: Any, encoded: Sequence[Encoded]) -> float:
    """Mean negative log-likelihood of the trained tokens, in nats per token; each token counts alike."""
    total, count = 0.0, 0
    with inference(model):
        for batch in _batches(encoded):
            summed, tokens = _batch_loss(model, batch)
            total += summed
            count += tokens
    return total / count


def _batches(encoded: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    batch: list[Encoded] = []
    for row in sorted(encoded, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * len(row.input_ids) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch_loss(model: Any, batch: Sequence[Encoded]) -> tuple[float, int]:
    import torch
    from torch.nn.functional import cross_entropy

    width = max(len(row.input_ids) for row in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)  # (B, T), padded on the right
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for at, row in enumerate(batch):
        length = len(row.input_ids)
        ids[at, :length] = torch.tensor(row.input_ids)
        mask[at, :length] = 1
        labels[at, :length] = torch.tensor(row.labels)
    targets = labels[:, 1:]  # what position t predicts
    kept = (targets != IGNORED).any(dim=0).nonzero().flatten()
    device = model.device
    logits = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=kept.to(device), use_cache=False
    ).logits.flatten(0, 1)  # (B × kept, V)
    wanted = targets[:, kept].flatten().to(device)
    sums = [
        cross_entropy(part.float(), want, ignore_index=IGNORED, reduction="sum").item()
        for part, want in zip(logits.split(CHUNK), wanted.split(CHUNK), strict=True)
    ]
    return sum(sums), int((wanted != IGNORED).sum())
