"""SentencePiece vocabularies: Llama 2 and older Mistral models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
from sentencepiece import SentencePieceProcessor


@dataclass
class Pieces:
    """The pieces of a SentencePiece model in order of their ids."""

    tokens: list[str]
    scores: list[float]
    types: list[gguf.TokenType]


def read_pieces(file: Path) -> Pieces:
    """The pieces of `tokenizer.model`; their scores decide which merge comes first."""
    model = SentencePieceProcessor()
    model.LoadFromFile(str(file))
    ids = range(model.vocab_size())
    return Pieces(
        [model.IdToPiece(token) for token in ids],
        [float(model.GetScore(token)) for token in ids],
        [_type(model, token) for token in ids],
    )


def _type(model: SentencePieceProcessor, token: int) -> gguf.TokenType:
    if model.IsUnknown(token):
        return gguf.TokenType.UNKNOWN
    if model.IsControl(token):
        return gguf.TokenType.CONTROL
    if model.IsUnused(token):
        return gguf.TokenType.UNUSED
    return gguf.TokenType.BYTE if model.IsByte(token) else gguf.TokenType.NORMAL
