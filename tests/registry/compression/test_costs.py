"""What changes are believed to cost before they are coded."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.compression.costs import ChangeCosts, costs_of_changes
from model_registry.compression.lattices import Codebook, Grid, Lattice
from model_registry.compression.quantization import grid_tensor
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.codecs.tensor_coding import encode_tensor
from model_registry.contract.entropy import COST_UNIT

GRID = Grid(0.01)
ENTRIES = np.sort(np.append(np.geomspace(0.001, 1, 60), [0, *-np.geomspace(0.0012, 1, 60)]))


@pytest.mark.parametrize("lattice", [GRID, Codebook(ENTRIES)], ids=["grid", "codebook"])
def test_where_small_weights_went_the_next_small_one_goes_cheaply(lattice: Lattice) -> None:
    base = lattice.nearest(np.random.default_rng(1).uniform(-1, 1, (80, 90)))
    pruned = np.where(np.abs(lattice.values(base)) < 0.1, lattice.zero, base)
    # Two that are known: the first small, the second large.
    base[0, :2] = lattice.nearest(np.array([0.05, 0.5]))
    pruned[0, :2] = lattice.zero, base[0, 1]
    costs = costs_of_changes(lattice, pruned, base)
    zeros = np.full_like(base, lattice.zero)
    gone, kept = costs(zeros, ...), costs(base, ...)
    assert gone[0, 0] < 0.2
    assert gone[0, 1] > 8
    assert kept[0, 1] < 0.01
    # Whatever is chosen costs about what its coder asks.
    assert costs(pruned, ...).sum() < 0.2 * ChangeCosts(lattice, pruned, base)(pruned, ...).sum()


def test_the_coder_asks_what_is_believed() -> None:
    rng = np.random.default_rng(2)
    base = GRID.nearest(rng.uniform(-1, 1, (200, 90)))
    pruned = np.where((np.abs(base) < 30) & (rng.random(base.shape) < 0.7), 0, base)
    before, after = (grid_tensor("w", levels, GRID.step) for levels in (base, pruned))
    sink = Sink()
    encode_tensor(before, after, sink)
    believed = float(costs_of_changes(GRID, pruned, base)(pruned, ...).sum())
    assert sink.cost / COST_UNIT == pytest.approx(believed, rel=0.15)


def test_where_weights_moved_a_little_either_way_steps_are_priced() -> None:
    rng = np.random.default_rng(3)
    base = GRID.nearest(rng.uniform(-1, 1, (80, 90)))
    moved = base + np.where(rng.random(base.shape) < 0.05, rng.choice([-1, 1], base.shape), 0)
    costs, steps = costs_of_changes(GRID, moved, base), ChangeCosts(GRID, moved, base)
    assert float(costs(moved, ...).sum()) == float(steps(moved, ...).sum())


def test_without_a_zero_nothing_is_pruned() -> None:
    lattice = Codebook(ENTRIES[ENTRIES != 0])
    base = lattice.nearest(np.random.default_rng(1).uniform(-1, 1, (80, 90)))
    shrunk = np.where(np.abs(lattice.values(base)) < 0.1, lattice.zero, base)
    assert isinstance(costs_of_changes(lattice, shrunk, base), ChangeCosts)


def test_a_layer_that_is_all_zero_has_costs_too() -> None:
    nothing = Codebook(np.zeros(1))
    levels = np.zeros((4, 5), np.int64)
    assert costs_of_changes(nothing, levels, levels)(levels, ...).max() < 0.2


def test_one_more_change_is_cheap_where_many_are_and_the_coder_asks_what_is_believed() -> None:
    """As after training that moved what a few channels take and give: rows and columns of kernels with many changes."""
    rng = np.random.default_rng(4)
    outputs, channels, kernel = 60, 40, 9
    base = GRID.nearest(rng.uniform(-1, 1, (1, outputs, channels * kernel)))
    busy = np.multiply.outer(rng.random(outputs) < 0.3, np.repeat(rng.random(channels) < 0.3, kernel))[np.newaxis]
    moved = base + np.where(rng.random(base.shape) < np.where(busy, 0.2, 0.002), 1, 0)
    plain, costs = ChangeCosts(GRID, moved, base), ChangeCosts(GRID, moved, base, kernel)
    changed = costs(base + 1, ...)
    assert changed[busy].mean() + 3 < changed[~busy].mean()
    alike = plain(base + 1, ...)
    assert alike[busy].mean() == pytest.approx(alike[~busy].mean(), abs=0.1)
    assert costs(moved, ...).sum() < 0.85 * plain(moved, ...).sum()
    before, after = (grid_tensor("w", v.reshape(outputs, channels, 3, 3), GRID.step) for v in (base, moved))
    sink = Sink()
    encode_tensor(before, after, sink)
    assert sink.cost / COST_UNIT == pytest.approx(float(costs(moved, ...).sum()) + costs.told, rel=0.15)


def test_a_change_that_goes_the_way_of_its_row_is_cheap_and_costs_what_the_coder_asks() -> None:
    rng = np.random.default_rng(4)
    base = GRID.nearest(rng.uniform(-1, 1, (1, 200, 90)))
    ways = rng.choice([-1, 1], (1, 200, 1))
    moved = base + np.where(rng.random(base.shape) < 0.1, ways, 0)
    moved[0, 0, 0] = base[0, 0, 0]
    costs = ChangeCosts(GRID, moved, base, columns=1)
    along, against = (float(costs(base + sign * ways, ...)[0, 0, 0]) for sign in (1, -1))
    assert against - along > 8
    # A row in which nothing changes yet may go either way.
    moved[0, 1] = base[0, 1]
    still = ChangeCosts(GRID, moved, base, columns=1)
    up, down = (float(still(base + sign, ...)[0, 1, 0]) for sign in (1, -1))
    assert up == down
    sink = Sink()
    before, after = (grid_tensor("w", levels[0], GRID.step) for levels in (base, moved))
    encode_tensor(before, after, sink)
    assert sink.cost / COST_UNIT == pytest.approx(float(still(moved, ...).sum()) + still.told, rel=0.05)
