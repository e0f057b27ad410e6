"""A setting made from data: every calibrated layer of a network rounded for one price of a bit.

One layer is rounded behind the other (propagation.py): without a base, and from a base that was made so, each of whose layers
takes back what those before it had done; mended by itself, it would do that no more. From another base a delta brings an update
and does not mend what the base's compression did: every layer is rounded for what it sees in the float network.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated, Calibration, energy
from model_registry.compression.compensation import round_layer
from model_registry.compression.processes import Each, one_by_one
from model_registry.compression.propagation import Aim, Propagation
from model_registry.compression.quantization import Floats, grid_tensor, on_grid
from model_registry.compression.revision import revise_bias, revise_layer
from model_registry.contract.codecs.prediction import overlap
from model_registry.contract.tensors import EncodedTensor

Doubles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Compensated:
    """What was measured on pictures, and the ``price`` of a bit in nats of divergence.

    ``coherence``: how many times more an update does to the answers than its layers do by themselves; 1 in a sequence, where
    later layers take back what earlier ones lack. ``each``: how layers that do not depend on each other are done.
    """

    calibration: Calibration
    price: float
    coherence: float = 1.0
    each: Each = one_by_one

    def round(
        self,
        weights: Mapping[str, Floats],
        base: Mapping[str, EncodedTensor],
        unchanged: frozenset[str],
        *,
        in_sequence: bool,
    ) -> dict[str, EncodedTensor]:
        """Every calibrated layer's weight on its grid or codebook, and its bias with what the rounding owes it, by name.

        Layers that the pictures tell nothing about are left out: no input reached them, or no answer came from them.
        ``base``: the tensors that the vehicle has, by name; a layer that grew or shrank is met where both overlap.
        ``unchanged``: the tensors that came from the same floats as the base's.
        """
        tasks = [self._update(calibrated, weights, base, unchanged) for calibrated in self._told()]
        if in_sequence:
            return _in_sequence(tasks, Propagation(self.calibration, weights))
        rounded = self.each(_updated, tasks, [0 if task.has_weight else task.weight.size for task in tasks])
        return {tensor.name: tensor for tensors in rounded for tensor in tensors}

    def _told(self) -> list[Calibrated]:
        return [calibrated for calibrated in self.calibration.layers.values() if calibrated.sensitivity > 0]

    def _update(
        self,
        calibrated: Calibrated,
        weights: Mapping[str, Floats],
        base: Mapping[str, EncodedTensor],
        unchanged: frozenset[str],
    ) -> _LayerUpdate:
        layer = calibrated.layer
        weight, bias = weights[layer.weight], weights[layer.bias] if layer.bias else None
        return _LayerUpdate(
            calibrated,
            weight,
            bias,
            base=base.get(layer.weight),
            base_bias=base.get(layer.bias or ""),
            has_weight=layer.weight in unchanged,
            has_bias=layer.bias in unchanged,
            price=self.price,
            coherence=self.coherence,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _LayerUpdate:
    """One layer of an update: its floats, what the vehicle has of it, and whether that came from the same floats."""

    calibrated: Calibrated
    weight: Floats
    bias: Floats | None
    base: EncodedTensor | None
    base_bias: EncodedTensor | None
    has_weight: bool
    has_bias: bool
    price: float
    coherence: float
    aim: Aim | None = None

    def aimed(self, aim: Aim) -> _LayerUpdate:
        """The same layer behind others that are rounded."""
        return replace(self, calibrated=aim.calibrated, coherence=1.0, aim=aim)


def _in_sequence(tasks: Iterable[_LayerUpdate], propagation: Propagation) -> dict[str, EncodedTensor]:
    """Every layer behind those that are rounded already."""
    rounded: dict[str, EncodedTensor] = {}
    for task in tasks:
        tensors = _updated(task.aimed(propagation.reach(task.calibrated)))
        propagation.take(tensors)
        rounded |= {tensor.name: tensor for tensor in tensors}
    return rounded


def _updated(update: _LayerUpdate) -> list[EncodedTensor]:
    """The layer's weight, and its bias if it has one."""
    calibrated, weight, bias, price = update.calibrated, update.weight, update.bias, update.price
    before, bias_before = update.base, update.base_bias
    if before is None or len(before.shape) != weight.ndim:
        return _alone(update)
    if update.aim is not None:
        rows, wanted = _wanted(update)
        weight = calibrated.layer.weight_of(rows, weight.shape).astype(np.float32)
        bias = None if bias is None else wanted.reshape(bias.shape).astype(np.float32)
    if not update.has_weight:
        tensor, owed = revise_layer(
            calibrated, weight, bias, base=before, base_bias=bias_before, price=price, coherence=update.coherence
        )
        return [tensor] if owed is None else [tensor, owed]
    if bias is None or (update.has_bias and bias_before is not None):
        return [before] if bias_before is None else [before, bias_before]
    revised = revise_bias(calibrated, weight, bias, base=before, base_bias=bias_before, price=price)
    return [before] if revised is None else [before, revised]


def _wanted(update: _LayerUpdate) -> tuple[Doubles, Doubles]:
    """Rows (groups, outputs, inputs) and bias (groups, outputs) to come near to."""
    layer, bias = update.calibrated.layer, update.bias
    rows: Doubles = layer.rows(update.weight.astype(np.float64))
    wanted: Doubles = np.zeros(rows.shape[:2]) if bias is None else bias.astype(np.float64).reshape(rows.shape[:2])
    return (rows, wanted) if update.aim is None else update.aim.corrected(rows, wanted)


def _alone(update: _LayerUpdate) -> list[EncodedTensor]:
    """A layer that the base does not have."""
    layer, bias = update.calibrated.layer, update.bias
    found = round_layer(*_wanted(update), update.calibrated, update.price)
    tensor = grid_tensor(layer.weight, layer.weight_of(found.levels, update.weight.shape), found.step)
    if bias is None or layer.bias is None:
        return [tensor]
    owed = found.bias.reshape(bias.shape).astype(np.float32)
    return [tensor, on_grid(layer.bias, owed, found.bias_step)]


def coherence_of(
    update: float, calibration: Calibration, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor]
) -> float:
    """How many times more ``update``, the divergence in nats between network and base, is than that of each layer alone."""
    alone = sum(_divergence(calibrated, weights, base) for calibrated in calibration.layers.values())
    return max(update / alone, 1.0) if alone > 0 else 1.0


def _divergence(calibrated: Calibrated, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor]) -> float:
    """What one layer's way from the base does to the answers, in nats; 0 where the base has no such layer."""
    layer = calibrated.layer
    rows, bias = _step(weights, base, layer.weight), _step(weights, base, layer.bias) if layer.bias else np.zeros(1)
    if rows is None or bias is None:
        return 0.0
    update = layer.rows(rows)
    bias = np.broadcast_to(bias.reshape(-1), update.shape[0] * update.shape[1]).reshape(*update.shape[:2], 1)
    return calibrated.sensitivity * energy(np.concatenate([update, bias], axis=2), calibrated.moments)


def _step(weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor], name: str) -> Doubles | None:
    """The way from the base where both overlap, zero elsewhere."""
    before, after = base.get(name), weights[name]
    if before is None or len(before.shape) != after.ndim:
        return None
    shared = overlap(before.shape, after.shape)
    step: Doubles = np.zeros(after.shape)
    step[shared] = after[shared].astype(np.float64) - before.dequantize()[shared]
    return step
