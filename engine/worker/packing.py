"""Raw text for continued pretraining: texts in a row, cut into sequences of one length, so that nothing is padding.

A sequence may hold the end of one text and the beginning of the next, with the end-of-text token between them, and
attention sees across it, as in the pretraining that this continues (GPT-3, arXiv:2005.14165, appendix B).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.datasets.base import Row

LEAST = 16
"""Tokens below which what is left over at the end is no sequence worth a step."""

Ids = Sequence[int] | NDArray[np.int32]


class Example(Protocol):
    """What a model is given at once, and what of it is learned."""

    @property
    def input_ids(self) -> Ids:
        """(T,)"""
        ...

    @property
    def labels(self) -> Ids:
        """(T,) the ids, and `IGNORED` where nothing is learned."""
        ...


@dataclass(frozen=True)
class Packed:
    """A sequence of raw text, all of which is learned."""

    input_ids: NDArray[np.int32]
    """(T,)"""

    @property
    def labels(self) -> NDArray[np.int32]:
        """The ids themselves."""
        return self.input_ids


def pack(texts: Iterable[Sequence[int]], length: int) -> list[Packed]:
    """Token ids of texts, one after the other, as sequences of `length` tokens.

    The last one is shorter, and left out below `LEAST` tokens. Takes 4 bytes a token.
    """
    held = array("i")
    for ids in texts:
        held.extend(ids)
    stream = np.frombuffer(held, np.int32)
    cut = [stream[at : at + length] for at in range(0, len(stream), length)]
    return [Packed(ids) for ids in cut if len(ids) >= LEAST]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """Raw texts in another order, so that neighbours in the file are not neighbours in a sequence; chats stay."""
    texts = [row for row in rows if not row.messages]
    return [row for row in rows if row.messages] + random.Random(seed).sample(texts, len(texts))
