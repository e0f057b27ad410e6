"""A tensor of a new version, chosen so that it is cheap to reach from the base and still delivers the update.

Requantizing a slightly trained network onto its base's coarse grid gives tiny deltas that deliver next to nothing. So every
changed tensor is tried from the cheapest encoding to the exact one, and the first that loses at most ``LOST_LIMIT`` is taken.

``lost`` of a tensor is |shipped - new|^2 / |new - base|^2: the energy of what did not arrive over the energy of the update,
as the vehicle sees it. (Divergence of outputs is quadratic in a small change of weights too.) The ``lost`` of a network is
the same ratio of sums over all changed tensors, each divided by its own energy, so that none counts more for being large.

A tensor whose source did not change stays as the vehicle has it, also when the base was made with another setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_registry.compression.quantization import finer_and_finer, in_base_order, keep_exactly
from model_registry.contract.tensors import EncodedTensor, Encoding

LOST_LIMIT = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A tensor's encoding; ``missing`` and ``wanted``: energies of what did not arrive and of the update, over the tensor's."""

    tensor: EncodedTensor
    missing: float = 0.0
    wanted: float = 0.0

    @property
    def lost(self) -> float:
        return self.missing / self.wanted if self.wanted else 0.0


def update_tensor(
    values: npt.NDArray[np.float32], own: EncodedTensor, before: EncodedTensor | None, *, unchanged: bool, exact: bool
) -> Update:
    """Choose the encoding of ``values``, whose encoding without a base is ``own``; ``unchanged``: ``before`` is of the same."""
    if before is None or before.shape != own.shape:
        return Update(own)
    if exact:
        return Update(in_base_order(own, before) if own.encoding is Encoding.CODEBOOK else own)
    if unchanged or own.same_as(before):
        return Update(before)
    update = Update(keep_exactly(own.name, values))
    for candidate in finer_and_finer(own.name, values, before, own):
        update = measure(values, candidate, before)
        if update.lost <= LOST_LIMIT:
            break
    return update


def deliver(values: npt.NDArray[np.float32], chosen: EncodedTensor, base: EncodedTensor | None) -> Update:
    """Take an encoding that was chosen with the base in mind."""
    return Update(chosen) if base is None or base.shape != chosen.shape else measure(values, chosen, base)


def measure(values: npt.NDArray[np.float32], shipped: EncodedTensor, base: EncodedTensor) -> Update:
    """What of the way from ``base`` to ``values`` does ``shipped`` not go?"""
    energy = float(np.square(values, dtype=np.float64).sum()) or 1.0
    missing = float(np.square(shipped.dequantize().astype(np.float64) - values).sum())
    wanted = float(np.square(values.astype(np.float64) - base.dequantize()).sum())
    return Update(shipped, missing / energy, wanted / energy)


def lost_share(updates: Iterable[Update]) -> float:
    """The network's ``lost``; 0 when nothing changed."""
    changed = list(updates)
    wanted = sum(update.wanted for update in changed)
    return sum(update.missing for update in changed) / wanted if wanted else 0.0
