"""A tensor of a new version, chosen so that it is cheap to reach from the base and still delivers the update.

Requantizing a slightly trained network onto its base's coarse grid gives tiny deltas that deliver next to nothing. So every
changed tensor is tried from the cheapest encoding to the exact one, and the first that loses at most ``LOST_LIMIT`` is taken.

``lost`` of a tensor is |shipped - new|^2 / |new - base|^2: the energy of what did not arrive over the energy of the update,
as the vehicle sees it. (Divergence of outputs is quadratic in a small change of weights too.) The ``lost`` of a network is
the same ratio of sums over all changed tensors, each divided by its own energy, so that none counts more for being large.
Weights that training pruned go so far that all others may stay where they were for a share of it (half of an update was lost
by its answers where 0.3 % was told): so those that are left are told of by themselves as well, and the larger share counts.

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
# Of float16, which a codebook's entries are rounded to; and what float32 adds.
HALF_ULP, ROUNDED_TWICE = 2.0**-11, 1.001


@dataclass(frozen=True, slots=True)
class Way:
    """``wanted``: the energy of the way that weights were to go; ``missing``: of what of it they did not; over the tensor's."""

    missing: float = 0.0
    wanted: float = 0.0

    @property
    def lost(self) -> float:
        return self.missing / self.wanted if self.wanted else 0.0

    def __add__(self, other: Way) -> Way:
        return Way(self.missing + other.missing, self.wanted + other.wanted)


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """A tensor's encoding; the way of ``all`` its weights, and of those that are ``left``, which are not zero."""

    tensor: EncodedTensor
    all: Way = Way()
    left: Way = Way()

    @property
    def lost(self) -> float:
        return max(self.all.lost, self.left.lost)


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
    before = base.dequantize()
    missing = np.square(shipped.dequantize().astype(np.float64) - values)
    wanted = np.square(values.astype(np.float64) - before)

    def way(part: npt.NDArray[np.bool_]) -> Way:
        return Way(float(missing[part].sum()) / energy, float(wanted[part].sum()) / energy)

    left = values != 0
    moved = left.any() and not _as_rounded(values[left], before[left], base)
    return Update(shipped, way(np.ones(values.shape, np.bool_)), way(left) if moved else Way())


def _as_rounded(values: npt.NDArray[np.float32], before: npt.NDArray[np.float32], base: EncodedTensor) -> bool:
    """Whether weights are as far from what the base has as its encoding alone brings them."""
    grid = base.encoding in (Encoding.GRID8, Encoding.GRID16)
    rounding = np.abs(base.scale).max() / 2 if grid else np.abs(values) * HALF_ULP
    return bool((np.abs(values - before) <= rounding * ROUNDED_TWICE).all())


def lost_share(updates: Iterable[Update]) -> float:
    """The network's ``lost``; 0 when nothing changed."""
    changed = list(updates)
    return max(sum((update.all for update in changed), Way()).lost, sum((update.left for update in changed), Way()).lost)
