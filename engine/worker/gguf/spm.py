"""SentencePiece vocabularies (Mistral, Llama 2), read from tokenizer.json alone.

`tokenizer.model` is not needed: its scores say which merge comes first, and the order of the merges in tokenizer.json,
by which the model was trained, says the same. `probe.py` proves it by tokenizing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_byte(piece: str) -> bool:
    """True for `<0x0A>` and its like, which stand for bytes of characters that have no token."""
    return _BYTE.fullmatch(piece) is not None


def scores(tokens: Sequence[str], raw: dict[str, Any]) -> list[float]:
    """A score for each token: minus its place in the order of merges, after them in that of the ids.

    llama.cpp joins first what has the highest score, whatever it is joined from. These are SentencePiece's own
    numbers, https://github.com/google/sentencepiece/blob/master/src/bpe_model_trainer.cc; bytes and added tokens,
    which nothing is joined to, have 0. `raw` is tokenizer.json; its merges are pairs, or in older files both halves in
    one text.
    """
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in raw["model"]["merges"])
    merged = dict.fromkeys("".join(pair) for pair in pairs)
    added = {token["content"] for token in raw["added_tokens"]}
    single = (piece for piece in tokens if piece not in merged)
    learned = (piece for piece in (*merged, *single) if piece not in added and not is_byte(piece))
    order = {piece: -float(place) for place, piece in enumerate(learned)}
    return [order.get(piece, 0.0) for piece in tokens]
