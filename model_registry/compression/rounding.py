"""A setting made from data: every calibrated layer of a network rounded for one price of a bit.

One layer is rounded behind the other (propagation.py), so that each takes back what those before it err or leave undone. Of an
update that moves all layers together that is most of what a price leaves undone: it does many times more to the answers than
each layer's part of it does by itself, and the layers that come last bring it for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated, Calibration
from model_registry.compression.compensation import round_layer
from model_registry.compression.propagation import Aim, Propagation
from model_registry.compression.quantization import Floats, grid_tensor, on_grid
from model_registry.compression.revision import revise_bias, revise_layer
from model_registry.contract.tensors import EncodedTensor

Doubles = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Compensated:
    """What was measured on pictures, and the ``price`` of a bit in nats of divergence."""

    calibration: Calibration
    price: float

    def round(
        self, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor], unchanged: frozenset[str]
    ) -> dict[str, EncodedTensor]:
        """Every calibrated layer's weight on its grid or codebook, and its bias with what the rounding owes it, by name.

        Layers that the pictures tell nothing about are left out: no input reached them, or no answer came from them.
        ``base``: the tensors that the vehicle has, by name; a layer that grew or shrank is met where both overlap.
        ``unchanged``: the tensors that came from the same floats as the base's.
        """
        propagation, rounded = Propagation(self.calibration, weights), dict[str, EncodedTensor]()
        for calibrated in self.calibration.layers.values():
            if calibrated.sensitivity > 0:
                names = [name for name in (calibrated.layer.weight, calibrated.layer.bias) if name]
                before = {name: base[name] for name in names if name in base}
                tensors = (
                    list(before.values())
                    if unchanged.issuperset(names)
                    else _updated(propagation.reach(calibrated), weights, before, unchanged, self.price)
                )
                propagation.take(tensors)
                rounded |= {tensor.name: tensor for tensor in tensors}
        return rounded


def _updated(
    aim: Aim, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor], unchanged: frozenset[str], price: float
) -> list[EncodedTensor]:
    """A layer's weight, and its bias if it has one."""
    calibrated, layer = aim.calibrated, aim.calibrated.layer
    weight, bias = weights[layer.weight], weights[layer.bias] if layer.bias else None
    before, bias_before = base.get(layer.weight), base.get(layer.bias or "")
    rows: Doubles = layer.rows(weight.astype(np.float64))
    owed: Doubles = np.zeros(rows.shape[:2]) if bias is None else bias.astype(np.float64).reshape(rows.shape[:2])
    rows, owed = aim.corrected(rows, owed)
    if before is None or len(before.shape) != weight.ndim:
        return _alone(calibrated, (rows, owed), weights, price)
    wanted = layer.weight_of(rows, weight.shape).astype(np.float32)
    wanted_bias = None if bias is None else owed.reshape(bias.shape).astype(np.float32)
    if layer.weight in unchanged and wanted_bias is not None:
        revised = revise_bias(calibrated, wanted, wanted_bias, base=before, base_bias=bias_before, price=price)
        return [before] if revised is None else [before, revised]
    tensor, found = revise_layer(
        calibrated, wanted, wanted_bias, base=before, base_bias=bias_before, price=price, trained=weight
    )
    return [tensor] if found is None else [tensor, found]


def _alone(
    calibrated: Calibrated, wanted: tuple[Doubles, Doubles], weights: Mapping[str, Floats], price: float
) -> list[EncodedTensor]:
    """A layer that the base does not have, near the rows and the bias that are ``wanted``."""
    layer, found = calibrated.layer, round_layer(*wanted, calibrated, price)
    tensor = grid_tensor(layer.weight, layer.weight_of(found.levels, weights[layer.weight].shape), found.step)
    if layer.bias is None:
        return [tensor]
    owed = found.bias.reshape(weights[layer.bias].shape).astype(np.float32)
    return [tensor, on_grid(layer.bias, owed, found.bias_step)]
