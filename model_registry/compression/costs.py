"""What the coder will ask for a level, in bits, estimated from the levels of a whole layer as they are now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model_registry.compression.lattices import MAGNITUDES, Integers, Lattice

Doubles = npt.NDArray[np.floating[Any]]
# Steps beyond this cost so many bits more for every doubling, as a number coded by its length does.
FARTHEST, BITS_BEYOND = 24, 2.0
CELLS = 2 * FARTHEST + 1
# What it takes to tell how often weights of one kind change.
BITS_OF_A_KIND = 16


class Costs(Protocol):
    """Called with ``candidates`` (choices, outputs) and the levels of the ``base`` (outputs); tells bits of every candidate."""

    def __call__(self, candidates: Integers, base: Integers) -> Doubles: ...


class LevelCosts:
    """Without a base: an adaptive code's bits under the histogram of ``levels``."""

    def __init__(self, levels: Integers) -> None:
        self._largest = int(np.abs(levels).max(initial=0)) + 1
        histogram = np.bincount((levels + self._largest).ravel(), minlength=2 * self._largest + 1) + 0.3
        self._bits = -np.log2(histogram / histogram.sum())

    def __call__(self, candidates: Integers, base: Integers) -> Doubles:  # noqa: ARG002 - there is none
        return np.asarray(self._bits[np.clip(candidates, -self._largest, self._largest) + self._largest])


class ChangeCosts:
    """With a base: the bits of a step from the base's level, by the kind of that level; no step is nearly free.

    ``occurring``: how many kinds there are.
    """

    def __init__(self, lattice: Lattice, levels: Integers, base: Integers) -> None:
        self._lattice = lattice
        steps, kinds = levels - base, lattice.kind(base)
        share = max(float((steps != 0).mean()), 0.5 / max(steps.size, 1))
        cells = (kinds * CELLS + _cell(steps)).ravel()
        counts = np.bincount(cells, minlength=lattice.kinds * CELLS).reshape(-1, CELLS).astype(np.float64)
        total = counts.sum(axis=1)
        self.occurring = int(np.count_nonzero(total))
        unchanged = counts[:, FARTHEST].copy()
        # A kind that is seldom seen resembles the others.
        changed = np.clip((total - unchanged + 4 * share) / (total + 4), 1e-5, 0.98)
        counts[:, FARTHEST] = 0
        overall = counts.sum(axis=0) + 0.05
        counts += 2 * overall / overall.sum()
        self._bits = -np.log2(changed[:, np.newaxis] * counts / counts.sum(axis=1, keepdims=True))
        self._bits[:, FARTHEST] = -np.log2(1 - changed)

    def __call__(self, candidates: Integers, base: Integers) -> Doubles:
        steps = candidates - base
        return np.asarray(self._bits[self._lattice.kind(base), _cell(steps)] + _bits_beyond(steps))


class PruningCosts:
    """With a base that was pruned further: the bits of a new level, by the magnitude of the base's; staying is nearly free.

    ``occurring``: how many magnitudes there are.
    """

    def __init__(self, lattice: Lattice, levels: Integers, base: Integers) -> None:
        self._lattice = lattice
        moved, magnitudes = levels != base, lattice.magnitude(base)
        share = max(float(moved.mean()), 0.5 / max(moved.size, 1))
        total = np.bincount(magnitudes.ravel(), minlength=MAGNITUDES)
        self.occurring = int(np.count_nonzero(total))
        changed = np.bincount(magnitudes[moved], minlength=MAGNITUDES)
        # A magnitude that is seldom seen resembles the others.
        rates = np.clip((changed + 4 * share) / (total + 4), 1e-5, 0.98)
        self._stays, self._changes = -np.log2(1 - rates), -np.log2(rates)
        values = np.bincount(_cell(levels[moved] - lattice.zero), minlength=CELLS) + 0.05
        self._values = -np.log2(values / values.sum())

    def __call__(self, candidates: Integers, base: Integers) -> Doubles:
        magnitudes, distances = self._lattice.magnitude(base), candidates - self._lattice.zero
        told = self._changes[magnitudes] + self._values[_cell(distances)] + _bits_beyond(distances)
        return np.asarray(np.where(candidates == base, self._stays[magnitudes], told))


def _cell(steps: Integers) -> Integers:
    """0 to ``CELLS`` - 1. This is asked for every weight many times: two comparisons take half as long as ``clip``."""
    return np.asarray(np.minimum(np.maximum(steps, -FARTHEST), FARTHEST) + FARTHEST)


def _bits_beyond(steps: Integers) -> Doubles | float:
    """What is to be added for steps beyond the cells, which are few."""
    sizes = np.abs(steps)
    return BITS_BEYOND * np.log2(np.maximum(sizes / FARTHEST, 1)) if sizes.max(initial=0) > FARTHEST else 0.0


def costs_of_changes(lattice: Lattice, levels: Integers, base: Integers) -> Costs:
    """Those of the code that serves the present ``levels`` better; there is none for pruning without a zero."""
    steps = ChangeCosts(lattice, levels, base)
    if lattice.values(np.array(lattice.zero)) != 0:
        return steps
    ways: list[ChangeCosts | PruningCosts] = [steps, PruningCosts(lattice, levels, base)]
    return min(ways, key=lambda costs: float(costs(levels, base).sum()) + BITS_OF_A_KIND * costs.occurring)


@dataclass(frozen=True, slots=True, eq=False)
class Pricing:
    """How levels of ``lattice`` are chosen: ``costs`` in bits, and the ``price`` of one in the energy that moments measure."""

    lattice: Lattice
    costs: Costs
    price: float

    def choose(self, values: Doubles, candidates: Integers, base: Integers, curvature: float) -> Integers:
        """For each of ``values`` the one of its ``candidates`` (choices, outputs) with the least damage + price x bits."""
        loss = curvature * np.square(values - self.lattice.values(candidates)) + self.price * self.costs(candidates, base)
        return np.asarray(candidates[loss.argmin(axis=0), np.arange(values.size)])
