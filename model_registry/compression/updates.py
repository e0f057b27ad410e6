"""A tensor of a new version, chosen so that it is cheap to reach from the base and still delivers the update.

Requantizing a slightly trained network onto its base's coarse grid gives tiny deltas that deliver next to nothing. So every
changed tensor is tried from the cheapest encoding to the exact one, and the first that loses at most ``LOST_LIMIT`` is taken.

``lost`` of a tensor is |shipped - new|^2 / |new - base|^2: the energy of what did not arrive over the energy of the update,
as the vehicle sees it. (Divergence of outputs is quadratic in a small change of weights too.) The ``lost`` of a network is
the same ratio of sums over all changed tensors, each divided by its own energy, so that none counts more for being large.
Weights that training pruned go so far that all others may stay where they were for a share of it: half of what an update did
to the answers was lost where 0.3 % was told. So there is a second share, of the weights alone that are not zero, where more
than a few of them moved farther than rounding explains; the larger of the two counts.

A tensor whose source did not change stays as the vehicle has it, also when the base was made with another setting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from model_registry.compression.quantization import GRIDS, HALF_PRECISION, Floats, finer_and_finer, in_base_order, keep_exactly
from model_registry.contract.tensors import EncodedTensor, Encoding

LOST_LIMIT = 0.05
# Steps are told in float32, so that half of one may come out a little larger.
TOLERANCE = 1.001
# An update by a hundredth of a step takes one in a hundred weights across half a step; a single weight is none.
FEW = 0.001


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
    """A tensor's encoding; the way of the ``whole`` tensor, and of the weights ``left``, which are not zero, if they moved."""

    tensor: EncodedTensor
    whole: Way = Way()
    left: Way = Way()

    @property
    def lost(self) -> float:
        return max(self.whole.lost, self.left.lost)


def update_tensor(
    values: Floats, own: EncodedTensor, before: EncodedTensor | None, *, unchanged: bool, exact: bool, nearest: bool
) -> Update:
    """Choose the encoding of ``values``, whose encoding without a base is ``own``.

    ``unchanged``: ``before`` is of the same; ``nearest``: its values are the nearest to what they came from.
    """
    # What no step fits, as it is no number, is floats already.
    if before is None or before.shape != own.shape or own.encoding is Encoding.FLOAT32:
        return Update(own)
    if exact:
        return Update(in_base_order(own, before) if own.encoding is Encoding.CODEBOOK else own)
    if unchanged or own.same_as(before):
        return Update(before)
    update = Update(keep_exactly(own.name, values))
    for candidate in finer_and_finer(own.name, values, before, own):
        update = measure(values, candidate, before, nearest=nearest)
        if update.lost <= LOST_LIMIT:
            break
    return update


def deliver(values: Floats, chosen: EncodedTensor, base: EncodedTensor | None) -> Update:
    """Take an encoding that was chosen with the base in mind."""
    return Update(chosen) if base is None or base.shape != chosen.shape else measure(values, chosen, base, nearest=False)


def measure(values: Floats, shipped: EncodedTensor, base: EncodedTensor, *, nearest: bool) -> Update:
    """What of the way from ``base`` to ``values`` does ``shipped`` not go?

    Of a base whose values are not the ``nearest`` nobody knows how far its rounding moved a weight, nor which ones moved since.
    """
    energy = float(np.square(values, dtype=np.float64).sum()) or 1.0
    before = base.dequantize()
    missing = np.square(shipped.dequantize().astype(np.float64) - values)
    wanted = np.square(values.astype(np.float64) - before)
    update = Update(shipped, Way(float(missing.sum()) / energy, float(wanted.sum()) / energy))
    if not nearest:
        return update
    left = values != 0
    moved = left & (np.abs(values - before) > _rounding(values, base))
    if np.count_nonzero(moved) <= FEW * np.count_nonzero(left):
        return update
    return replace(update, left=Way(float(missing[left].sum()) / energy, float(wanted[left].sum()) / energy))


def _rounding(values: Floats, base: EncodedTensor) -> Floats:
    """How far rounding to the base's encoding moves each of these weights at most; one for all where that is the same."""
    if base.encoding in GRIDS:
        return np.asarray(np.abs(base.steps) * np.float32(TOLERANCE / 2))
    return np.abs(values) * np.float32(HALF_PRECISION)


def lost_share(updates: Iterable[Update]) -> float:
    """The network's ``lost``; 0 when nothing changed."""
    changed = list(updates)
    return max(sum((update.whole for update in changed), Way()).lost, sum((update.left for update in changed), Way()).lost)
