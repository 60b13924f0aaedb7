"""The held-out rows: kept beside the run, and the loss on them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.datasets.base import Row
from engine.paths import partial
from engine.state import NOTHING_ASKED
from engine.tokens.mask import IGNORED
from engine.tokens.tokenizer import Tokenizer
from engine.worker.answer import LONGEST_ANSWER, Question, inference, questions
from engine.worker.context import Context, sync
from engine.worker.packing import Example

BATCH_ROWS = 16
BATCH_TOKENS = 2048
"""Tokens in one forward pass: bounds the logits, which are the largest tensor by far."""

CHUNK = 256
"""Positions whose logits are in float32 at a time."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as `{"messages": […]}` or `{"text": …}`, one a line, whole or not at all."""
    temporary = partial(path)
    with temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(_plain(row), ensure_ascii=False) + "\n")
    sync(temporary)
    temporary.rename(path)


def _plain(row: Row) -> dict[str, Any]:
    if not row.messages:
        return {"text": row.text}
    return {"messages": row.messages} | ({} if row.tools is None else {"tools": row.tools})


def read_rows(path: Path, most: int) -> list[Row]:
    """The first rows that `write_rows` wrote."""
    with path.open(encoding="utf-8") as file:
        found = [(number, json.loads(line)) for number, line in zip(range(1, most + 1), file, strict=False)]
    return [Row(number, row.get("messages", []), row.get("text", ""), row.get("tools")) for number, row in found]


def askable(context: Context, tokenizer: Tokenizer, rows: Sequence[Row]) -> list[Question]:
    """The rows as questions; how many are left out is told. Raises `DataError` if the template refuses a row.

    Raw text asks nothing: its held-out loss tells what was learned.
    """
    limit = context.plan.train.max_length
    chats = [row for row in rows if row.messages]
    if rows and not chats:
        context.finding("ok", NOTHING_ASKED, "Its held-out loss tells what is learned.")
    asked = questions(tokenizer, chats, limit)
    if len(asked) < len(chats):
        detail = f"Asked is what ends with an answer of at most {LONGEST_ANSWER} tokens, and has {limit:,} with it."
        context.finding("warning", f"{len(chats) - len(asked):,} of {len(chats):,} held-out rows are not asked", detail)
    return asked


def loss(model: Any, encoded: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the trained tokens, in nats per token; each token counts alike."""
    total, count = 0.0, 0
    with inference(model):
        for batch in _batches(encoded):
            summed, tokens = _batch_loss(model, batch)
            total += summed
            count += tokens
    return total / count


def _batches(encoded: Sequence[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for row in sorted(encoded, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) == BATCH_ROWS or (len(batch) + 1) * len(row.input_ids) > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _batch_loss(model: Any, batch: Sequence[Example]) -> tuple[float, int]:
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
