"""Distances between what two models say: Kullback–Leibler divergence and negative log-likelihood, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def log_softmax(logits: Floats) -> NDArray[np.float32]:
    """Log-probabilities (T, V) of logits (T, V); summed in fp64, because V may be 150,000."""
    top = logits.max(axis=-1, keepdims=True)
    shifted = logits - top
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return (shifted - np.log(total)).astype(np.float32)


def mean_kl(reference: Sequence[Floats], other: Sequence[Floats]) -> float:
    """Mean over all positions of KL(reference ‖ other), from log-probabilities in parts of (T, V)."""
    each = [_kl(one, two) for one, two in zip(reference, other, strict=True)]
    return float(np.concatenate(each).mean())


def _kl(reference: Floats, other: Floats) -> NDArray[np.float64]:
    # A vocabulary may be padded on one side only; such tokens have no probability worth counting.
    width = min(reference.shape[-1], other.shape[-1])
    one, two = reference[:, :width], other[:, :width]
    return (np.exp(one) * (one - two)).sum(axis=-1, dtype=np.float64)  # (T,)
