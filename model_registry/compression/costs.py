"""What the coder will ask for a level, in bits, estimated from the levels of a whole layer as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model_registry.compression.lattices import KNOWN_MAGNITUDES, Integers, Lattice, Offsets, Place

Doubles = npt.NDArray[np.floating[Any]]
# Steps beyond this cost so many bits more for every doubling, as a number coded by its length does.
FARTHEST, BITS_BEYOND = 24, 2.0
CELLS = 2 * FARTHEST + 1
# What it takes to tell how often weights of one kind change, how many of one row or column do, and which way a row goes.
BITS_OF_A_KIND, BITS_OF_A_COUNT, BITS_OF_A_DIRECTION = 16, 2, 1
# A row or column of which this many changes are to be expected is taken at its word by half.
CHANGES_TO_BELIEVE = 1.0


class Costs(Protocol):
    """Of one layer. Called with ``candidates`` (choices, ...) and their ``place``, an index of the layer's levels that yields
    (...); tells bits of every candidate.
    """

    def __call__(self, candidates: Integers, place: Place) -> Doubles: ...


class LevelCosts:
    """Without a base: an adaptive code's bits under the histogram of ``levels``."""

    def __init__(self, levels: Integers) -> None:
        self._largest = int(np.abs(levels).max(initial=0)) + 1
        histogram = np.bincount((levels + self._largest).ravel(), minlength=2 * self._largest + 1) + 0.3
        self._bits = -np.log2(histogram / histogram.sum())

    def __call__(self, candidates: Integers, place: Place) -> Doubles:  # noqa: ARG002 - all places are alike
        return np.asarray(self._bits[np.clip(candidates, -self._largest, self._largest) + self._largest])


class ChangeCosts:
    """With a base: the bits of a step from the base's level, by the kind of that level; no step is nearly free.

    Weights, whose levels are (groups, outputs, inputs), are also priced by how much changes in their row and column, and by
    whether they go the way of their row: ``columns`` says how many neighbouring inputs are one column to the coder, 0 that
    there are none. ``told``: bits that it takes to tell all that.
    """

    def __init__(self, lattice: Lattice, levels: Integers, base: Integers, columns: int = 0) -> None:
        self._base, self._kinds = base, lattice.kind(base)
        steps = levels - base
        share = max(float((steps != 0).mean()), 0.5 / max(steps.size, 1))
        directions = _directions(steps) if columns else np.ones(1, np.int64)
        self._directions = np.broadcast_to(np.where(directions < 0, -1, 1), base.shape)
        cells = (self._kinds * CELLS + _cell(steps * self._directions)).ravel()
        counts = np.bincount(cells, minlength=lattice.kinds * CELLS).reshape(-1, CELLS).astype(np.float64)
        total = counts.sum(axis=1)
        # A kind that is seldom seen resembles the others.
        changed = (total - counts[:, FARTHEST] + 4 * share) / (total + 4)
        counts[:, FARTHEST] = 0
        overall = counts.sum(axis=0) + 0.05
        counts += 2 * overall / overall.sum()
        bits = -np.log2(counts / counts.sum(axis=1, keepdims=True))
        # A row that goes no way yet may take either.
        along = bits[:, FARTHEST:]
        self._steps = np.concatenate([bits, np.concatenate([along[:, :0:-1], along], axis=1)])
        self._tables = self._kinds + lattice.kinds * (directions == 0)
        rates = changed[self._kinds]
        if columns:
            rates = rates * _activity(steps != 0, rates, columns)
        rates = np.clip(rates, 1e-5, 0.98)
        self._stays, self._changes = -np.log2(1 - rates), -np.log2(rates)
        self.told = BITS_OF_A_KIND * int(np.count_nonzero(total))
        if columns:
            rows = base.shape[0] * base.shape[1]
            self.told += BITS_OF_A_COUNT * (rows + base.shape[2] // columns) + BITS_OF_A_DIRECTION * rows

    def __call__(self, candidates: Integers, place: Place) -> Doubles:
        base = self._base[place]
        steps = (candidates - base) * self._directions[place]
        changes = self._changes[place] + self._steps[self._tables[place], _cell(steps)] + _bits_beyond(steps)
        return np.asarray(np.where(candidates == base, self._stays[place], changes))


def _directions(steps: Integers) -> Integers:
    """Which way most of each row goes: up 1, down -1, none 0; (groups, outputs, 1)."""
    return np.asarray(np.sign(np.sign(steps).sum(axis=2, keepdims=True)))


def _activity(moved: npt.NDArray[np.bool_], rates: Doubles, columns: int) -> Doubles:
    """How many times more of a row and of a column changes than ``rates`` say, (groups, outputs, inputs)."""
    across = (*moved.shape[:2], -1, columns)
    rows = _times(moved.sum(axis=2, keepdims=True), rates.sum(axis=2, keepdims=True))
    down = _times(moved.reshape(across).sum(axis=(0, 1, 3)), rates.reshape(across).sum(axis=(0, 1, 3)))
    return np.asarray(rows * np.repeat(down, columns))


def _times(seen: Integers, expected: Doubles) -> Doubles:
    return np.asarray((seen + CHANGES_TO_BELIEVE) / (expected + CHANGES_TO_BELIEVE))


class PruningCosts:
    """With a base that was pruned further: the bits of a new level, by the magnitude of the base's; staying is nearly free.

    ``told``: bits that it takes to tell how often each magnitude changes.
    """

    def __init__(self, lattice: Lattice, levels: Integers, base: Integers) -> None:
        self._zero, self._base = lattice.zero, base
        moved, magnitudes = levels != base, lattice.magnitude(base)
        share = max(float(moved.mean()), 0.5 / max(moved.size, 1))
        total = np.bincount(magnitudes.ravel(), minlength=KNOWN_MAGNITUDES)
        self.told = BITS_OF_A_KIND * int(np.count_nonzero(total))
        changed = np.bincount(magnitudes[moved], minlength=KNOWN_MAGNITUDES)
        # A magnitude that is seldom seen resembles the others.
        rates = np.clip((changed + 4 * share) / (total + 4), 1e-5, 0.98)
        self._stays, self._changes = -np.log2(1 - rates)[magnitudes], -np.log2(rates)[magnitudes]
        values = np.bincount(_cell(levels[moved] - lattice.zero), minlength=CELLS) + 0.05
        self._values = -np.log2(values / values.sum())

    def __call__(self, candidates: Integers, place: Place) -> Doubles:
        distances = candidates - self._zero
        told = self._changes[place] + self._values[_cell(distances)] + _bits_beyond(distances)
        return np.asarray(np.where(candidates == self._base[place], self._stays[place], told))


def _cell(steps: Integers) -> Integers:
    """0 to ``CELLS`` - 1. This is asked for every weight many times: two comparisons take half as long as ``clip``."""
    return np.asarray(np.minimum(np.maximum(steps, -FARTHEST), FARTHEST) + FARTHEST)


def _bits_beyond(steps: Integers) -> Doubles | float:
    """What is to be added for steps beyond the cells, which are few."""
    sizes = np.abs(steps)
    return BITS_BEYOND * np.log2(np.maximum(sizes / FARTHEST, 1)) if sizes.max(initial=0) > FARTHEST else 0.0


def costs_of_changes(lattice: Lattice, levels: Integers, base: Integers, columns: int = 0) -> Costs:
    """Those of the code that serves the present ``levels`` better; there is none for pruning without a zero.

    ``columns``: how many neighbouring inputs are one column to the coder; 0 for what has no rows and columns.
    """
    steps = ChangeCosts(lattice, levels, base, columns)
    if lattice.values(np.array(lattice.zero)) != 0:
        return steps
    ways: list[ChangeCosts | PruningCosts] = [steps, PruningCosts(lattice, levels, base)]
    return min(ways, key=lambda costs: float(costs(levels, ...).sum()) + costs.told)


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """How levels of ``lattice`` are chosen: ``costs`` in bits, and the ``price`` of one in the energy that moments measure.

    ``base``: the levels that there were before, or zeros. ``offsets``: what the rows add, one for each level.
    """

    lattice: Lattice
    costs: Costs
    price: float
    base: Integers
    offsets: Offsets | None = None

    def values(self, levels: Integers, place: Place) -> Doubles:
        """The weights that ``levels`` stand for at ``place``, with what the rows add."""
        values = self.lattice.values(levels)
        return values if self.offsets is None else self.offsets.at(place).added(values)

    def neighbours(self, values: Doubles, place: Place) -> tuple[Integers, Integers]:
        """The levels below and above."""
        return self.lattice.neighbours(values if self.offsets is None else self.offsets.at(place).taken(values))

    def choose(self, values: Doubles, candidates: Integers, place: Place, curvature: float | Doubles) -> Integers:
        """For each of ``values`` (...) the one of its ``candidates`` (choices, ...) with the least damage + price x bits."""
        loss = curvature * np.square(values - self.values(candidates, place)) + self.price * self.costs(candidates, place)
        return np.asarray(np.take_along_axis(candidates, loss.argmin(axis=0)[np.newaxis], axis=0)[0])
