"""Going over levels again: what they cost together only falls, and the slopes stay what errors and moments say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from model_registry.compression.costs import LevelCosts, Pricing
from model_registry.compression.descent import sweep
from model_registry.compression.lattices import Grid, Integers

Doubles = npt.NDArray[np.float64]
STEP, PRICE = 0.3, 0.02


def _pruned_layer() -> tuple[Doubles, Doubles]:
    """Rows of which two thirds are zero, and the moments of inputs that resemble each other."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((32, 80)) * (rng.random((32, 80)) < 0.33)
    inputs = rng.standard_normal((80, 6)) @ rng.standard_normal((6, 400)) + 0.3 * rng.standard_normal((80, 400))
    return rows, inputs @ inputs.T / 400


def _together(rows: Doubles, levels: Integers, moments: Doubles, pricing: Pricing) -> float:
    errors = rows - STEP * levels
    return float(np.vdot(errors, errors @ moments) + PRICE * pricing.costs(levels, ...).sum())


def test_damage_and_bits_together_fall_with_every_sweep_until_nothing_is_found() -> None:
    rows, moments = _pruned_layer()
    grid = Grid(STEP)
    levels = grid.nearest(rows)
    pricing = Pricing(grid, LevelCosts(levels), PRICE, np.zeros_like(levels)[np.newaxis])
    seen = [_together(rows, levels, moments, pricing)]
    for _ in range(30):
        before = levels.copy()
        slopes = (rows - STEP * levels) @ moments
        sweep(slopes, moments, pricing, levels, 0)
        np.testing.assert_allclose(slopes, (rows - STEP * levels) @ moments, atol=1e-9)
        seen.append(_together(rows, levels, moments, pricing))
        if (levels == before).all():
            break
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(seen))
    assert seen[-1] < 0.8 * seen[0]
    assert (levels == before).all()


def test_slopes_may_go_on_beyond_the_inputs() -> None:
    """As they do where a bias is one more column."""
    rows, moments = _pruned_layer()
    levels = Grid(STEP).nearest(rows[:, :-1])
    pricing = Pricing(Grid(STEP), LevelCosts(levels), PRICE, np.zeros_like(levels)[np.newaxis])
    errors = np.concatenate([rows[:, :-1] - STEP * levels, rows[:, -1:]], axis=1)
    slopes = errors @ moments
    sweep(slopes, moments, pricing, levels, 0)
    errors[:, :-1] = rows[:, :-1] - STEP * levels
    np.testing.assert_allclose(slopes, errors @ moments, atol=1e-9)
