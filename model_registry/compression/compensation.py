"""Quantization that knows what its errors do: rounding with error compensation and a price for every bit.

One layer at a time, weight by weight: the error of each rounding is carried to the weights of the same row that come later,
and at last to the bias, as the moments of the layer's inputs say (Optimal Brain Surgeon, Hassibi and Stork 1993; the
column-wise form of GPTQ, Frantar et al. 2022, section 3). Among the neighbouring levels and zero the one is taken for which
damage + price x bits is least; bits are what the level costs under the layer's own statistics.

One ``price`` (nats of divergence for a bit) holds for the whole network, so that the last bit is worth the same in every
layer. The grid's step follows from it: at high rate a step of s does damage s^2/12 a weight, and a bit less quadruples it.

With a base, what is rounded is the *change*: the way from the base's weights, as the vehicle has them, to the new ones. The
damage is the same, and the bits are now those of a delta, where no change is nearly free. The base's step is halved until it
is fine enough, so that every weight of the base lies on the new grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated, Calibration
from model_registry.compression.quantization import LARGEST_LEVEL, Floats, grid_tensor, on_base, on_grid
from model_registry.contract.tensors import EncodedTensor, Encoding
from model_registry.models.linear_layers import LinearLayer

Doubles = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
# Keeps the inverse of the moments tame where inputs say the same or nothing: this part of their mean is added to each.
DAMPING = 0.01
# step^2 = STEP x price / curvature. High-rate theory gives 12 / (2 ln 2) = 8.7; a little more measured best at these rates.
STEP = 10.0
# The first pass prices levels by plain rounding, the second by what the first chose.
PASSES = 2
BLOCK = 32


@dataclass(frozen=True, slots=True, eq=False)
class Rounded:
    """A layer on its grid: ``levels`` shaped as its rows, ``step``, and the ``bias`` that takes up the mean of the errors."""

    levels: Integers
    step: float
    bias: Doubles


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """A layer as the vehicle has it: ``rows`` of weights, 0 where the base has none, and the base's ``step`` if it has one."""

    rows: Doubles
    step: float | None


def round_layer(rows: Doubles, bias: Doubles, calibrated: Calibrated, price: float, *, before: Before | None = None) -> Rounded:
    """Quantize ``rows`` (groups, outputs, inputs) with ``bias`` (groups, outputs), for ``price`` nats a bit."""
    factors = [_Factor.of(moments) for moments in calibrated.moments]
    curvature = float(np.exp(np.mean([np.log(f.diagonal[:-1] ** -2.0).mean() for f in factors])))
    wanted = float(np.sqrt(STEP * price / max(calibrated.sensitivity * curvature, 1e-300)))
    step = _step(wanted, rows, before)
    start = np.rint(before.rows / step).astype(np.int64) if before else np.zeros(rows.shape, np.int64)
    changes = _round_changes(rows - start * step, bias, calibrated, factors, step=step, price=price)
    return Rounded(start + changes.levels, step, changes.bias)


def _step(wanted: float, rows: Doubles, before: Before | None) -> float:
    """The grid's step: a half, quarter, ... of the base's, or what is wanted, where float16 holds it."""
    largest = float(max(np.abs(rows).max(), np.abs(before.rows).max() if before else 0.0)) or 1.0
    step = max(min(wanted, largest), largest / LARGEST_LEVEL)
    if before and before.step:
        halvings = max(round(np.log2(before.step / step)), 0)
        if largest <= LARGEST_LEVEL * before.step / 2**halvings:
            return float(np.float32(before.step / 2**halvings))
    return float(np.float16(step)) if np.float16(step) > 1e-4 else float(np.float32(step))


def _round_changes(
    rows: Doubles, bias: Doubles, calibrated: Calibrated, factors: list[_Factor], *, step: float, price: float
) -> Rounded:
    """The levels nearest in function to ``rows``, which are all of the weights or their change."""
    weight = np.concatenate([rows, bias[..., np.newaxis]], axis=2)
    levels = np.rint(rows / step).astype(np.int64)
    carried = bias
    for _ in range(PASSES):
        costs = _Costs(levels, price / max(calibrated.sensitivity, 1e-300))
        rounded = [_round_rows(w, factor, step, costs) for w, factor in zip(weight, factors, strict=True)]
        levels = np.stack([r[0] for r in rounded])
        carried = np.stack([r[1] for r in rounded])
    return Rounded(levels, step, carried)


@dataclass(frozen=True, slots=True, eq=False)
class _Factor:
    """``upper``: U with U^T U the inverse of the damped moments, inputs in ``order``, strongest first and the bias last."""

    order: npt.NDArray[np.intp]
    upper: Doubles

    @property
    def diagonal(self) -> Doubles:
        return np.asarray(np.diag(self.upper))

    @classmethod
    def of(cls, moments: Doubles) -> _Factor:
        size = len(moments) - 1
        damped = moments.copy()
        strength = np.diag(moments)[:size]
        damped[np.arange(size), np.arange(size)] += DAMPING * strength.mean() + 1e-12
        order = np.append(np.argsort(-strength, kind="stable"), size)
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        return cls(order, np.linalg.cholesky((inverse + inverse.T) / 2).T)


class _Costs:
    """What a level costs, in units of damage: an adaptive code's bits under the histogram of ``levels``."""

    def __init__(self, levels: Integers, price: float) -> None:
        self._largest = int(np.abs(levels).max()) + 1
        histogram = np.bincount((levels + self._largest).ravel(), minlength=2 * self._largest + 1) + 0.3
        self._table = price * -np.log2(histogram / histogram.sum())

    def __call__(self, levels: Integers) -> Doubles:
        return np.asarray(self._table[np.clip(levels, -self._largest, self._largest) + self._largest])


def _round_rows(weight: Doubles, factor: _Factor, step: float, costs: _Costs) -> tuple[Integers, Doubles]:
    """Round one group's rows; returns levels (outputs, inputs) and the compensated bias (outputs)."""
    upper, scale = factor.upper, factor.diagonal**-2.0
    remaining = weight[:, factor.order].copy()
    outputs, size = remaining.shape[0], remaining.shape[1] - 1
    levels = np.zeros((outputs, size), np.int64)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = np.zeros((outputs, stop - start))
        for at in range(start, stop):
            levels[:, at] = _choose(remaining[:, at], step, scale[at], costs)
            errors[:, at - start] = (remaining[:, at] - levels[:, at] * step) / upper[at, at]
            remaining[:, at + 1 : stop] -= np.outer(errors[:, at - start], upper[at, at + 1 : stop])
        # What lies beyond the block is brought up to date at once: one matrix product instead of many vectors.
        remaining[:, stop:] -= errors @ upper[start:stop, stop:]
    placed = np.empty_like(levels)
    placed[:, factor.order[:-1]] = levels
    return placed, remaining[:, size]


def _choose(values: Doubles, step: float, scale: float, costs: _Costs) -> Integers:
    """For each value the level, of the two neighbours and zero, with the least damage + cost."""
    below = np.floor(values / step).astype(np.int64)
    candidates = np.stack([below, below + 1, np.zeros_like(below)])
    damage: Any = np.square(values - candidates * step) * scale + costs(candidates)
    best = damage.argmin(axis=0)
    return np.asarray(candidates[best, np.arange(len(values))])


@dataclass(frozen=True, slots=True, eq=False)
class Compensated:
    """A setting made from data: what was measured on pictures, and the ``price`` of a bit in nats of divergence."""

    calibration: Calibration
    price: float

    def round(self, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor]) -> dict[str, EncodedTensor]:
        """Every calibrated layer's weight on its grid, and its bias with what the rounding owes it, by name.

        ``base``: the tensors that the vehicle has, by name; a layer that grew or shrank is met where both overlap.
        """
        rounded: dict[str, EncodedTensor] = {}
        for name, calibrated in self.calibration.layers.items():
            layer, weight = calibrated.layer, weights[name]
            rows = layer.rows(weight.astype(np.float64))
            bias = weights[layer.bias].astype(np.float64) if layer.bias else np.zeros(rows.shape[:2])
            before = _before(layer, weight.shape, base.get(name))
            result = round_layer(rows, bias.reshape(rows.shape[:2]), calibrated, self.price, before=before)
            rounded[name] = grid_tensor(name, layer.weight_of(result.levels, weight.shape), result.step)
            if layer.bias:
                owed = result.bias.reshape(weights[layer.bias].shape).astype(np.float32)
                rounded[layer.bias] = _bias(layer.bias, owed, base.get(layer.bias))
        return rounded


def _before(layer: LinearLayer, shape: tuple[int, ...], tensor: EncodedTensor | None) -> Before | None:
    if tensor is None or len(tensor.shape) != len(shape):
        return None
    overlap = tuple(slice(0, min(old, new)) for old, new in zip(tensor.shape, shape, strict=True))
    weight = np.zeros(shape)
    weight[overlap] = tensor.dequantize()[overlap]
    on_grid_already = tensor.encoding in (Encoding.GRID8, Encoding.GRID16) and tensor.scale.size == 1
    return Before(layer.rows(weight), float(tensor.scale[0]) if on_grid_already else None)


def _bias(name: str, values: Floats, before: EncodedTensor | None) -> EncodedTensor:
    """On the base's grid where it reaches far enough, so that most biases do not change."""
    own = on_grid(name, values, float(np.abs(values).max()) / 127)
    if before is None or before.shape != own.shape or before.encoding is not own.encoding or before.scale.size != 1:
        return own
    return on_base(name, values, before) if 0.5 * before.scale[0] <= own.scale[0] <= before.scale[0] else own
