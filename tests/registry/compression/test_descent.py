"""Going over levels again: as one weight after the other, what they cost together only falls, and the slopes stay true."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression.costs import ChangeCosts, LevelCosts, Pricing
from model_registry.compression.descent import best_levels, sweep
from model_registry.compression.lattices import Grid, Integers, Offsets

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


def _alone(start: Integers) -> Pricing:
    return Pricing(Grid(STEP), LevelCosts(start), PRICE, np.zeros_like(start)[np.newaxis])


def _near_a_base(start: Integers) -> Pricing:
    """With offsets of the rows, and bits that depend on what the base has at a place and on its row and column."""
    rng = np.random.default_rng(1)
    base = (start + (rng.random(start.shape) < 0.1))[np.newaxis]
    shift, stretch = 0.1 * rng.standard_normal((2, 1, len(start), 1))
    costs = ChangeCosts(Grid(STEP), start[np.newaxis], base, 4)
    return Pricing(Grid(STEP), costs, PRICE, base, Offsets.of(shift, stretch).over(base.shape))


@pytest.mark.parametrize("priced", [_alone, _near_a_base])
def test_levels_come_out_as_one_weight_after_the_other(priced: Callable[[Integers], Pricing]) -> None:
    rows, moments = _pruned_layer()
    start = Grid(STEP).nearest(rows)
    pricing = priced(start)
    levels, expected = start.copy(), start.copy()
    every = 0, slice(None)

    def slopes(of: Integers) -> Doubles:
        return np.asarray(
            (rows - np.stack([pricing.values(own, (*every, at)) for at, own in enumerate(of.T)], axis=1)) @ moments
        )

    sweep(slopes(levels), moments, pricing, levels, 0)
    for column in np.argsort(-np.diag(moments), kind="stable"):
        place = *every, int(column)
        slope = slopes(expected)[:, column]
        expected[:, column] = best_levels(slope, moments[column, column], pricing, expected[:, column], place)
    np.testing.assert_array_equal(levels, expected)
    # Rows that change more than once in a block are what looking at blocks could get wrong.
    assert ((levels != start).sum(axis=1) > 3).any()
