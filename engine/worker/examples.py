"""What a run learns from and is measured on: the plan's rows, split, mixed, and turned into token ids."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.datasets.base import Row
from engine.datasets.mix import draw, wanted_count
from engine.datasets.split import read_gold, side_key, split
from engine.errors import DataError
from engine.text import clean_line
from engine.tokens.mask import Encoded, Tally, encode_rows
from engine.tokens.tokenizer import Tokenizer
from engine.tokens.verdicts import Verdict, require_trainable
from engine.units import format_share
from engine.worker import checkpoint
from engine.worker.context import Context
from engine.worker.packing import LEAST, Example, Packed, pack, shuffled


@dataclass(frozen=True)
class Rows:
    """The rows of a run, as its plan says."""

    own: list[Row]
    """To learn from, of the data's own file."""
    mixed: list[Row]
    """To learn from as well, drawn from a file of general rows."""
    held_out: list[Row]
    gold: int
    """Hand-checked rows, which are only for `finetui eval`."""


class Learned(NamedTuple):
    """A conversation to learn from; 8 bytes a token, where lists of Python's numbers take ten times as much."""

    input_ids: NDArray[np.int32]
    """(T,)"""
    labels: NDArray[np.int32]
    """(T,)"""


def require_planned(context: Context) -> None:
    """Raise `DataError` if one of the plan's files is not what it was when the plan was made."""
    context.phase("checking that the data are those of the plan")
    for path, digest in context.plan.files.items():
        _require_same(Path(path), digest)


def _require_same(path: Path, planned: str) -> None:
    try:
        seen = checkpoint.sha256(path)
    except OSError as error:
        raise DataError("The data cannot be read", f"{path}: {error.strerror}", ("Put the file back.",)) from error
    if seen != planned:
        raise DataError(
            "The data have changed since the plan was made",
            f"{path}: SHA-256 {seen[:12]}…, planned {planned[:12]}…",
            ("Put the planned file back to go on with this run.", "Or plan and start a new run on the new data."),
        )


def read(context: Context) -> Rows:
    """The plan's rows, the same at each start. Raises `DataError` at the first that cannot be used."""
    context.phase("reading the rows")
    data, seed = context.plan.data, context.plan.train.seed
    own, held_out = split(data, seed)
    gold = {side_key(row) for row in read_gold(data)}
    mixed = draw(data, len(own), gold.union(map(side_key, held_out)), seed)
    return Rows(own, mixed, held_out, len(gold))


def encode_learned(context: Context, tokenizer: Tokenizer, rows: Rows) -> tuple[list[Example], Tally]:
    """Everything to learn from; what came of it is told as findings. Raises `DataError` if there is nothing."""
    data, tally = context.plan.data, Tally()
    found = _encode(context, tokenizer, shuffled(rows.own, context.plan.train.seed), data.path, tally)
    found += _encode(context, tokenizer, shuffled(rows.mixed, context.plan.train.seed), data.mix_path, tally)
    require_trainable(tally, context.plan.train.max_length, data.path)
    if not found:
        detail = f"{clean_line(data.path)}: {tally.tokens} tokens in all; a sequence has at least {LEAST}"
        raise DataError("There is too little text to learn from", detail, ("Add text.",))
    return found, tally


def encode_held_out(
    context: Context, tokenizer: Tokenizer, rows: Sequence[Row], path: str
) -> tuple[list[Example], Tally]:
    """Rows to measure the loss on: as they are learned from, in their own order. `path` is for naming a fault."""
    tally = Tally()
    return _encode(context, tokenizer, rows, path, tally), tally


def _encode(context: Context, tokenizer: Tokenizer, rows: Sequence[Row], path: str, tally: Tally) -> list[Example]:
    """Conversations each by itself, raw texts packed."""
    max_length = context.plan.train.max_length
    chats = _tokenize(context, tokenizer, [row for row in rows if row.messages], path, tally, max_length)
    found: list[Example] = [
        Learned(np.asarray(row.input_ids, np.int32), np.asarray(row.labels, np.int32)) for row in chats
    ]
    texts = _tokenize(context, tokenizer, [row for row in rows if not row.messages], path, tally, sys.maxsize)
    return [*found, *pack((row.input_ids for row in texts), max_length)]


def _tokenize(
    context: Context, tokenizer: Tokenizer, rows: Sequence[Row], path: str, tally: Tally, max_length: int
) -> Iterator[Encoded]:
    if not rows:
        return
    context.phase(f"tokenizing {len(rows):,} rows")

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(rows), "rows", "tokenize")

    for batch in encode_rows(tokenizer, rows, max_length, tally, Path(path).name, told):
        yield from batch


def findings(context: Context, rows: Rows, examples: Sequence[Example], tally: Tally) -> Iterator[Verdict]:
    """What there is to say of the rows to learn from."""
    packed = sum(isinstance(example, Packed) for example in examples)
    if tally.texts < tally.rows:
        yield from _chats(tally, len(examples) - packed, context.plan.train.max_length)
    if tally.texts:
        yield from _texts(context, tally, packed)
    if context.plan.data.mix_path:
        yield _mixed(context, rows)
    if rows.gold:
        detail = "What they ask is neither learned nor held out; `finetui eval` scores them."
        yield Verdict("ok", f"{rows.gold:,} gold rows are kept apart", detail)


def _chats(tally: Tally, kept: int, max_length: int) -> Iterator[Verdict]:
    what = "the assistant's answers" + (", and all of the text" if tally.texts else "")
    share = f"{tally.trained:,} of {tally.tokens:,} tokens are trained: {what}"
    yield Verdict("ok", f"{kept:,} rows are trained on", share)
    if tally.truncated:
        title = f"{tally.truncated:,} rows were cut to {max_length:,} tokens"
        yield Verdict("warning", title, f"The longest has {tally.longest:,} tokens.")
    if tally.dropped:
        title = f"{tally.dropped:,} rows have nothing to learn within {max_length:,} tokens"
        yield Verdict("warning", title, "They are not used.")


def _texts(context: Context, tally: Tally, packed: int) -> Iterator[Verdict]:
    plan = context.plan
    title = f"{tally.texts:,} texts are packed into {packed:,} sequences of {plan.train.max_length:,} tokens"
    passes = plan.steps * plan.effective_batch / max(packed, 1)
    detail = f"All of the text is trained. {plan.steps:,} steps are {passes:.3g} passes over it"
    expected = plan.examples if tally.texts == tally.rows and plan.train.max_steps is None else packed
    if abs(packed - expected) > 0.1 * expected:
        yield Verdict("warning", title, f"{detail}, not {plan.train.epochs:g}: about {expected:,} were expected.")
    else:
        yield Verdict("ok", title, f"{detail}.")


def _mixed(context: Context, rows: Rows) -> Verdict:
    data, mixed = context.plan.data, len(rows.mixed)
    share = format_share(mixed / (len(rows.own) + mixed))
    title = f"{mixed:,} rows are mixed in from {clean_line(Path(data.mix_path).name)}: {share} of those to learn from"
    if mixed < wanted_count(len(rows.own), data.mix_ratio):
        return Verdict("warning", title, f"{format_share(data.mix_ratio)} were wanted; there are no more.")
    return Verdict("ok", title, "Drawn by the seed; none is held out.")
