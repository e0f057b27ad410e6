"""Quantization that knows what its errors do: rounding with error compensation and a price for every bit.

One layer at a time, weight by weight: the error of each rounding is carried to the weights of the same row that come later,
and at last to the bias, as the moments of the layer's inputs say (Optimal Brain Surgeon, Hassibi and Stork 1993; the
column-wise form of GPTQ, Frantar et al. 2022, section 3). Of the neighbouring levels and zero the one is taken for which
damage + price x bits is least. Coordinate descent (descent.py) then goes over the choices.

One ``price`` (nats of divergence for a bit) holds for the whole network, so that the last bit is worth the same in every
layer. The grid's step follows from it: at high rate a step of s does damage s^2/12 a weight, and a bit less quadruples it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated
from model_registry.compression.costs import LevelCosts, Pricing
from model_registry.compression.descent import sweep
from model_registry.compression.lattices import Grid, Integers
from model_registry.compression.quantization import LARGEST_LEVEL

Doubles = npt.NDArray[np.floating[Any]]
# Keeps the inverse of the moments tame where inputs say the same or nothing: this part of their mean is added to each.
DAMPING = 0.01
# step^2 = STEP x price / curvature. High-rate theory gives 12 / (2 ln 2) = 8.7; a little more measured best at these rates.
STEP = 10.0
# Of a bias, half that step: what it errs, it errs at every position and in every picture.
BIAS_SHARE = 0.5
# The first pass prices levels by plain rounding, the second by what the first chose.
PASSES = 2
# Descent after them takes a fifth of the divergence away for the same bytes; a third sweep finds hardly anything.
SWEEPS = 2
BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A layer on its grid: ``levels`` shaped as its rows, ``step``, and the ``bias`` that takes up the mean of the errors.

    ``bias_step``: how coarse that may become for the same price; biases of many layers hardly matter.
    """

    levels: Integers
    step: float
    bias: Doubles
    bias_step: float


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """``upper``: U with U^T U the inverse of the damped ``moments``; inputs in ``order``, strongest first and the bias last."""

    moments: Doubles
    order: npt.NDArray[np.intp]
    upper: Doubles

    @property
    def curvature(self) -> Doubles:
        """For every input and the bias: the damage of a unit of error, once all that come later have made up for it."""
        return np.asarray(np.diag(self.upper) ** -2.0)

    @property
    def made_up(self) -> tuple[Doubles, Doubles]:
        """The moments that are left of the inputs when the bias always makes up, and by how much it does for each."""
        own, shared = self.moments[:-1, :-1], self.moments[-1, :-1]
        owed = shared / self.moments[-1, -1]
        return own - np.outer(owed, shared), owed

    @classmethod
    def of(cls, moments: Doubles) -> Factor:
        size, tame = len(moments) - 1, damped(moments)
        order = np.append(np.argsort(-np.diag(moments)[:size], kind="stable"), size)
        inverse = np.linalg.inv(tame[np.ix_(order, order)])
        return cls(tame, order, np.linalg.cholesky((inverse + inverse.T) / 2).T)


def damped(moments: Doubles) -> Doubles:
    """Moments (n + 1, n + 1) that have an inverse: a little is added to the strength of each of the n inputs."""
    inputs = np.arange(len(moments) - 1)
    tame: Doubles = moments.copy()
    tame[inputs, inputs] += DAMPING * np.diag(moments)[:-1].mean() + 1e-12
    return tame


def round_layer(rows: Doubles, bias: Doubles, calibrated: Calibrated, price: float) -> Rounded:
    """Quantize ``rows`` (groups, outputs, inputs) with ``bias`` (groups, outputs), for ``price`` nats a bit."""
    factors = [Factor.of(moments) for moments in calibrated.moments]
    step = storable_step(wanted_step(calibrated, factors, price), float(np.abs(rows).max()) or 1.0)
    grid, base = Grid(step), np.zeros(rows.shape, np.int64)
    levels = grid.nearest(rows)

    def pricing() -> Pricing:
        return Pricing(grid, LevelCosts(levels), energy_price(calibrated, price), base)

    for _ in range(PASSES):
        levels = _round_groups(rows, bias, factors, pricing())
    made_up = [factor.made_up for factor in factors]
    for _ in range(SWEEPS):
        priced = pricing()
        for group, (moments, _) in enumerate(made_up):
            slopes = (rows[group] - grid.values(levels[group])) @ moments
            sweep(slopes, moments, priced, levels[group], group)
    errors = rows - grid.values(levels)
    owed = np.stack([own @ reach for own, (_, reach) in zip(errors, made_up, strict=True)])
    owed += bias
    wanted = BIAS_SHARE * wanted_bias_step(factors, energy_price(calibrated, price))
    largest = float(np.abs(owed).max(initial=0))
    return Rounded(levels, step, owed, min(max(wanted, largest / 127), largest))


def energy_price(calibrated: Calibrated, price: float) -> float:
    """A bit's price in units of the energy that the moments measure."""
    return price / max(calibrated.sensitivity, 1e-300)


def wanted_step(calibrated: Calibrated, factors: list[Factor], price: float) -> float:
    """The step at which a finer one would cost more bits than it saves damage."""
    curvature = float(np.exp(np.mean([np.log(factor.curvature[:-1]).mean() for factor in factors])))
    return float(np.sqrt(STEP * price / max(calibrated.sensitivity * curvature, 1e-300)))


def wanted_bias_step(factors: list[Factor], price: float) -> float:
    """The same for biases, which nothing makes up for, and a ``price`` of energy."""
    curvature = float(np.mean([factor.curvature[-1] for factor in factors]))
    return float(np.sqrt(STEP * price / curvature))


def storable_step(wanted: float, largest: float) -> float:
    """``wanted`` where the levels of weights up to ``largest`` fit 16 bits, as float16 where that holds it."""
    step = max(min(wanted, largest), largest / LARGEST_LEVEL)
    return float(np.float16(step)) if np.float16(step) > 1e-4 else float(np.float32(step))


def _round_groups(rows: Doubles, bias: Doubles, factors: list[Factor], pricing: Pricing) -> Integers:
    """Round every group; returns levels shaped as ``rows``."""
    extended = np.concatenate([rows, bias[..., np.newaxis]], axis=2)
    return np.stack(
        [_round_rows(own, factor, pricing, group) for group, (own, factor) in enumerate(zip(extended, factors, strict=True))]
    )


def _round_rows(extended: Doubles, factor: Factor, pricing: Pricing, group: int) -> Integers:
    """One group, column by column: (outputs, inputs + 1), the bias last, which takes up what is left."""
    upper, curvature = factor.upper, factor.curvature
    remaining = extended[:, factor.order]
    outputs, size = remaining.shape[0], remaining.shape[1] - 1
    levels = np.zeros((outputs, size), np.int64)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.zeros((outputs, stop - start))
        for at in range(start, stop):
            column, values = factor.order[at], remaining[:, at]
            place = group, slice(None), column
            below, above = pricing.neighbours(values, place)
            candidates = np.stack([below, above, np.full_like(below, pricing.lattice.zero)])
            levels[:, column] = pricing.choose(values, candidates, place, float(curvature[at]))
            errors[:, at - start] = (values - pricing.values(levels[:, column], place)) / upper[at, at]
            remaining[:, at + 1 : stop] -= np.outer(errors[:, at - start], upper[at, at + 1 : stop])
        # What lies beyond the block is brought up to date at once: one matrix product instead of many vectors.
        remaining[:, stop:] -= errors @ upper[start:stop, stop:]
    return levels
