"""A layer as it should be, and what is chosen for it: the goal of every choice that is made near a base."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated
from model_registry.compression.compensation import Factor, energy_price
from model_registry.compression.costs import Pricing, costs_of_changes
from model_registry.compression.lattices import Codebook, Grid, Integers, Offsets
from model_registry.compression.quantization import Floats
from model_registry.models.linear_layers import LinearLayer

Doubles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Levels on a lattice, the levels of the base there, and what the rows add."""

    lattice: Codebook | Grid
    base: Integers
    levels: Integers
    offsets: Offsets | None = None

    @property
    def values(self) -> Doubles:
        values = self.lattice.values(self.levels)
        return values if self.offsets is None else self.offsets.added(values)


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """The layer as it should be: ``rows`` (groups, outputs, inputs) and ``bias`` (groups, outputs); ``price`` of energy.

    ``shape`` and ``bias_shape`` are those of the tensors; the latter is None where there is no bias, which then is zero.
    """

    layer: LinearLayer
    shape: tuple[int, ...]
    rows: Doubles
    bias: Doubles
    bias_shape: tuple[int, ...] | None
    factors: list[Factor]
    price: float

    @classmethod
    def of(cls, calibrated: Calibrated, weight: Floats, bias: Floats | None, price: float) -> Goal:
        layer, factors = calibrated.layer, [Factor.of(moments) for moments in calibrated.moments]
        rows = layer.rows(weight.astype(np.float64))
        wanted = np.zeros(rows.shape[:2]) if bias is None else bias.astype(np.float64).reshape(rows.shape[:2])
        shape = None if bias is None else bias.shape
        return cls(layer, weight.shape, rows, wanted, shape, factors, energy_price(calibrated, price))

    def pricing(self, choice: Choice) -> Pricing:
        """A bit's cost under the changes that ``choice`` makes, of weights, biases or offsets."""
        columns = math.prod(self.shape[2:]) if choice.levels.ndim == self.rows.ndim else 0
        costs = costs_of_changes(choice.lattice, choice.levels, choice.base, columns)
        offsets = None if choice.offsets is None else choice.offsets.over(choice.base.shape)
        return Pricing(choice.lattice, costs, self.price, choice.base, offsets)

    def slopes(self, group: int, weights: Doubles, bias: Doubles) -> Doubles:
        """Errors times moments, (outputs, inputs + 1): half of how the damage falls with every weight and the bias."""
        return np.asarray(self._missing(group, weights, bias) @ self.factors[group].moments)

    def bias_slopes(self, group: int, weights: Doubles, bias: Doubles) -> Doubles:
        """The last of the ``slopes`` alone, (outputs)."""
        return np.asarray(self._missing(group, weights, bias) @ self.factors[group].moments[:, -1])

    def _missing(self, group: int, weights: Doubles, bias: Doubles) -> Doubles:
        return np.concatenate([self.rows[group] - weights, (self.bias[group] - bias)[:, np.newaxis]], axis=1)

    def damage(self, weights: Doubles, bias: Doubles) -> float:
        """Energy of the disturbance that is left, all groups together."""
        errors = np.concatenate([self.rows - weights, (self.bias - bias)[..., np.newaxis]], axis=2)
        disturbance = np.stack([own @ factor.moments for own, factor in zip(errors, self.factors, strict=True)])
        return float(np.vdot(errors, disturbance))
