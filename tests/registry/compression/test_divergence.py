"""How far answers lie apart."""

from __future__ import annotations

import numpy as np

from model_registry.compression.divergence import mean_divergence, telling_temperature


def test_divergence_is_zero_for_equal_answers_and_grows_with_the_difference() -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert mean_divergence(logits, logits) == 0
    near, far = (mean_divergence(logits, logits + by * np.eye(5, 4, dtype=np.float32)) for by in (0.1, 1.0))
    assert 0 < near < far


def test_a_network_that_is_sure_of_everything_is_softened_until_damage_shows() -> None:
    generator = np.random.default_rng(0)
    undecided = generator.standard_normal((50, 10)).astype(np.float32)
    sure = 100 * undecided
    damaged = sure + 20 * generator.standard_normal(sure.shape).astype(np.float32)
    temperature = telling_temperature(sure)
    assert telling_temperature(undecided) == 1
    assert temperature > 10
    # Where only sure answers are looked at, the plain divergence sees next to nothing.
    surest = np.argsort(-(np.sort(sure)[:, -1] - np.sort(sure)[:, -2]))[:10]
    assert mean_divergence(sure[surest], damaged[surest]) < 1e-6
    assert mean_divergence(sure[surest], damaged[surest], temperature=temperature) > 1e-4


def test_a_network_with_one_output_needs_no_softening() -> None:
    assert telling_temperature(np.ones((3, 1), np.float32)) == 1
