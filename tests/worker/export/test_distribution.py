"""distribution: the figures of a certificate, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from engine.worker.distribution import log_softmax, mean_kl

HALF = np.log([[0.5, 0.5]])
SKEW = np.log([[0.75, 0.25]])


def test_kl_is_of_the_first_from_the_second() -> None:
    # KL(½,½ ‖ ¾,¼) = ½ ln ⅔ + ½ ln 2 and KL(¾,¼ ‖ ½,½) = ¾ ln 3/2 + ¼ ln ½
    assert mean_kl([HALF], [SKEW]) == pytest.approx(0.143841, abs=1e-6)
    assert mean_kl([SKEW], [HALF]) == pytest.approx(0.130812, abs=1e-6)


def test_kl_of_the_same_is_nothing() -> None:
    assert mean_kl([SKEW], [SKEW]) == 0


def test_each_position_counts_alike_in_parts_of_any_size() -> None:
    assert mean_kl([HALF, np.vstack([HALF] * 3)], [SKEW, np.vstack([HALF] * 3)]) == pytest.approx(
        0.143841 / 4, abs=1e-6
    )


def test_padding_of_a_vocabulary_on_one_side_does_not_count() -> None:
    padded = np.hstack([SKEW, [[-80.0]]])
    assert mean_kl([HALF], [padded]) == mean_kl([padded[:, :2] * 0 + HALF], [SKEW])


def test_log_softmax() -> None:
    logits = np.log(np.array([[1, 3], [10, 10]], np.float32)) + 50
    np.testing.assert_allclose(np.exp(log_softmax(logits)), [[0.25, 0.75], [0.5, 0.5]], atol=1e-6)
