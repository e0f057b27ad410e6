"""How far answers lie apart."""

from __future__ import annotations

import numpy as np

from model_registry.compression.divergence import mean_divergence


def test_divergence_is_zero_for_equal_answers_and_grows_with_the_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert mean_divergence(logits, logits) == 0
    near, far = (mean_divergence(logits, logits + by * np.eye(5, 4, dtype=np.float32)) for by in (0.1, 1.0))
    assert 0 < near < far
