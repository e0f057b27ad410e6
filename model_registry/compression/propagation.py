"""Rounding a layer for what reaches it: its inputs as the layers before it have become, its answers as they were.

What earlier layers err is not only noise to a layer. Much of it can be told from the layer's own inputs, and what can be told
can be taken back: of all weights, W E[x y^T] E[y y^T]^-1 come nearest to the answers W x when y is seen instead of x
(asymmetric reconstruction: Zhang et al. 2015, arXiv 1505.06798; for quantization: Li et al. 2025, arXiv 2504.02692).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated, Calibration, products, seen_by, shrunk
from model_registry.compression.compensation import damped
from model_registry.compression.quantization import Floats
from model_registry.contract.tensors import EncodedTensor
from model_registry.models.stages import Walk

Doubles = npt.NDArray[np.floating[Any]]


class Propagation:
    """The calibration's requests in the float network and, beside it, in the network as far as it is rounded."""

    def __init__(self, calibration: Calibration, weights: Mapping[str, Floats]) -> None:
        self._exact, self._rounded = (Walk(calibration.graph, calibration.requests) for _ in range(2))
        self._weights, self._so_far = dict(weights), dict(weights)

    def reach(self, calibrated: Calibrated) -> Aim:
        """What the next layer is to become."""
        layer = calibrated.layer
        before, now = self._exact.to(layer, self._weights), self._rounded.to(layer, self._so_far)
        return _aim(calibrated, before, now)

    def take(self, tensors: Sequence[EncodedTensor]) -> None:
        """These are rounded."""
        self._so_far |= {tensor.name: tensor.dequantize() for tensor in tensors}


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """A layer as it is ``calibrated`` on the inputs that reach it; ``drift``: how far E[x y^T] is from E[y y^T]."""

    calibrated: Calibrated
    drift: Doubles

    def corrected(self, rows: Doubles, bias: Doubles) -> tuple[Doubles, Doubles]:
        """Rows (groups, outputs, inputs) and bias (groups, outputs) that take back what can be told from the inputs."""
        weights = np.concatenate([rows, bias[..., np.newaxis]], axis=2)
        moments = np.stack([damped(own) for own in self.calibrated.moments])
        weights = weights + np.linalg.solve(moments, (weights @ self.drift).transpose(0, 2, 1)).transpose(0, 2, 1)
        return weights[..., :-1], weights[..., -1]


def _aim(calibrated: Calibrated, before: Sequence[Floats], now: Sequence[Floats]) -> Aim:
    layer, size = calibrated.layer, calibrated.moments.shape[-1]
    moments, crossed = np.zeros((2, layer.groups, size, size))
    for number, (was, is_) in enumerate(zip(before, now, strict=True)):
        seen = seen_by(layer, is_, number)
        moments += products(seen, seen) / len(now)
        crossed += products(seen_by(layer, was, number), seen) / len(now)
    return Aim(replace(calibrated, moments=shrunk(moments, calibrated.samples)), crossed - moments)
