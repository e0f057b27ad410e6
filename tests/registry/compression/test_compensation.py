"""Rounding that carries its errors on: less damage than plain rounding on the same grid, and the bias takes the rest."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression.calibration import Calibrated, energy, shrunk
from model_registry.compression.compensation import Rounded, round_layer
from model_registry.models.linear_layers import LinearLayer

Doubles = npt.NDArray[np.float64]
LAYER = LinearLayer("w", "b", "x")


def correlated(inputs: int, positions: int = 400, groups: int = 1) -> Doubles:
    """Columns whose inputs resemble each other and have a mean, as activations do."""
    rng = np.random.default_rng(0)
    causes = rng.standard_normal((groups, 4, positions))
    mixed = rng.standard_normal((groups, inputs, 4)) @ causes
    return np.asarray(np.maximum(mixed + 0.3 * rng.standard_normal(mixed.shape) + 0.5, 0))


def moments(columns: Doubles) -> Doubles:
    ones = np.ones((columns.shape[0], 1, columns.shape[2]))
    extended = np.concatenate([columns, ones], axis=1)
    return np.asarray(extended @ extended.transpose(0, 2, 1) / columns.shape[2])


def damage(rows: Doubles, found: Rounded, m: Doubles) -> float:
    """What ``found`` does to outputs of ``rows`` without a bias."""
    return energy(np.concatenate([found.levels * found.step - rows, found.bias[..., np.newaxis]], axis=2), m)


@pytest.mark.parametrize("groups", [1, 3])
def test_it_does_less_damage_than_the_nearest_levels(groups: int) -> None:
    rows = np.random.default_rng(1).standard_normal((groups, 16, 40))
    bias = np.zeros((groups, 16))
    m = moments(correlated(40, groups=groups))
    found = round_layer(rows, bias, Calibrated(LAYER, m, 1.0), price=1e-4)
    plain = Rounded(np.rint(rows / found.step).astype(np.int64), found.step, bias, found.bias_step)
    assert damage(rows, found, m) < 0.5 * damage(rows, plain, m)


def test_a_higher_price_buys_fewer_different_levels() -> None:
    rows = np.random.default_rng(1).standard_normal((1, 16, 40))
    calibrated = Calibrated(LAYER, moments(correlated(40)), 1.0)
    levels = [round_layer(rows, np.zeros((1, 16)), calibrated, price).levels for price in (1e-6, 1e-4, 1e-2)]
    kinds = [np.unique(found).size for found in levels]
    assert kinds == sorted(kinds, reverse=True)
    assert kinds[0] > kinds[-1]


def test_a_bias_that_hardly_matters_becomes_coarse_and_none_coarser_than_eight_bits_need() -> None:
    rows = np.random.default_rng(1).standard_normal((1, 16, 40))
    bias = np.linspace(-1, 1, 16)[np.newaxis]
    found = [round_layer(rows, bias, Calibrated(LAYER, moments(correlated(40)), s), price=1e-4) for s in (1e-9, 1.0, 1e9)]
    steps = [layer.bias_step / np.abs(layer.bias).max() for layer in found]
    assert steps == sorted(steps, reverse=True)
    assert steps[0] == 1.0
    assert steps[-1] == pytest.approx(1 / 127)


def test_inputs_that_are_always_zero_and_layers_that_do_not_matter_are_no_trouble() -> None:
    rows = np.random.default_rng(1).standard_normal((1, 4, 10))
    columns = correlated(10)
    columns[:, :3] = 0
    silent = moments(np.zeros_like(columns))
    cases = (
        (rows, moments(columns), 1.0),
        (rows, silent, 1.0),
        (rows, moments(columns), 0.0),
        (0 * rows, moments(columns), 0.0),
    )
    for weights, m, sensitivity in cases:
        found = round_layer(weights, np.zeros((1, 4)), Calibrated(LAYER, m, sensitivity), price=1e-4)
        assert found.step > 0
        assert np.isfinite(found.bias).all()
        assert np.abs(found.levels).max() <= 32_767


def test_the_same_layer_gives_the_same_levels() -> None:
    rows = np.random.default_rng(1).standard_normal((1, 16, 40))
    calibrated = Calibrated(LAYER, moments(correlated(40)), 1.0)
    first, second = (round_layer(rows, np.zeros((1, 16)), calibrated, 1e-4) for _ in range(2))
    assert np.array_equal(first.levels, second.levels)
    assert first.step == second.step


def test_few_samples_draw_moments_towards_independent_inputs_and_many_leave_them() -> None:
    m = moments(correlated(40))
    assert np.allclose(shrunk(m, 10**9), m)
    drawn = shrunk(m, 40)
    inputs = np.arange(40)
    added = np.zeros_like(m)
    added[:, inputs, inputs] = 0.1 * m[:, inputs, inputs].mean()
    assert np.allclose(drawn - m, added)
    assert np.linalg.cond(drawn[0]) < np.linalg.cond(m[0])
