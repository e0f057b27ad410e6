"""Float weights become integers: what is kept exactly, what goes onto a grid, and how fine the grid is.

Without any data, in this order:

1. What is empty or has values that are no finite numbers stays float32.
2. A bias of a convolution or linear layer: an 8-bit grid up to its largest value.
3. Another vector, or a scalar: float16 where that is precise enough. There are few of them and some are variances.
4. A weight tensor with at most 256 different values is already quantised: its values become a codebook, rounded to float16
   (half a thousandth) unless they are too small for that.
5. Any other weight tensor: a uniform grid with the step ``setting.step`` x rms of the tensor x (its share of all
   weights)^(1/4). For equal damage a byte, rate-distortion theory gives the power 1/2; measured on ImageNet weights, 1/4
   loses less, because small tensors feed everything behind them.

Everything is a function of the weights and the setting alone, so the same input gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.tensors import NO_OFFSETS, NO_SCALE, EncodedTensor, Encoding, float32_tensor

Floats = npt.NDArray[np.float32]
MAX_ENTRIES, SAMPLED = 256, 4096
LARGEST_LEVEL = 32_767
SHARE_POWER = 0.25
# Rounding a codebook to float16 moves an entry by less than this part of itself, unless it is tiny.
HALF_PRECISION = 2.0**-10
# A base's step is halved at most this often before the exact values are kept.
MAX_HALVINGS = 6
GRIDS = (Encoding.GRID8, Encoding.GRID16)


@dataclass(frozen=True, slots=True)
class Setting:
    """How fine: ``step`` in units of a tensor's rms; ``keep_codebooks`` leaves tensors that are already quantised alone."""

    step: float = 0.15
    keep_codebooks: bool = True


def quantize(name: str, values: Floats, setting: Setting, *, bias: bool, share: float) -> EncodedTensor:
    """Encode one tensor on its own. ``share``: its part of all weights of the network, 0 to 1."""
    if not values.size or not np.isfinite(values).all():
        return float32_tensor(name, values)
    if bias:
        return on_grid(name, values, float(np.abs(values).max()) / 127)
    if values.ndim < 2:
        return _as_half(name, values)
    if setting.keep_codebooks:
        codebook = as_codebook(name, values, rounded=True)
        if codebook is not None:
            return codebook
    rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
    return on_grid(name, values, setting.step * rms * share**SHARE_POWER)


def keep_exactly(name: str, values: Floats) -> EncodedTensor:
    """Encode one tensor so that it comes back bit for bit, signed zeros and NaN included."""
    codebook = as_codebook(name, values, rounded=False)
    if codebook is not None and values.size >= 2 * codebook.scale.size:
        return codebook
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if half.astype(np.float32).tobytes() == values.tobytes():
        return EncodedTensor(name, Encoding.FLOAT16, half, NO_SCALE)
    return float32_tensor(name, values)


def as_codebook(name: str, values: Floats, *, rounded: bool) -> EncodedTensor | None:
    """Indices into the sorted distinct values, or None when there are more than 256 of them."""
    every = np.ascontiguousarray(values).view(np.uint32).ravel()
    # A few thousand values tell a dense tensor from a quantised one without sorting millions.
    if np.unique(every[:: max(every.size // SAMPLED, 1)]).size > MAX_ENTRIES:
        return None
    bits = np.unique(every)
    if not 0 < bits.size <= MAX_ENTRIES:
        return None
    # Sorting floats themselves would make all NaN the same NaN; places are sorted instead.
    places = np.argsort(bits.view(np.float32), kind="stable")
    entries = bits.view(np.float32)[places]
    if rounded:
        entries = _rounded(entries)
        return EncodedTensor(name, Encoding.CODEBOOK, _nearest(entries, values), entries)
    # Compared as bits: a negative zero stays one.
    found = np.searchsorted(bits, np.ascontiguousarray(values).view(np.uint32))
    return EncodedTensor(name, Encoding.CODEBOOK, np.argsort(places)[found].astype(np.uint8).reshape(values.shape), entries)


def on_grid(name: str, values: Floats, step: float) -> EncodedTensor:
    """Nearest multiples of ``step`` (rounded to float16 where that is harmless), in 8 or 16 bits; floats where 16 are few."""
    scale = _rounded(np.array([step], np.float32))
    if not scale[0] > 0:
        scale = np.ones(1, np.float32)
    multiples = np.rint(values / scale[0])
    if values.size and float(np.abs(multiples).max()) > LARGEST_LEVEL:
        return keep_exactly(name, values)
    return grid_tensor(name, multiples, float(scale[0]))


def grid_tensor(name: str, levels: npt.NDArray[Any], step: float) -> EncodedTensor:
    """Whole ``levels`` as a tensor of 8 or 16 bits, whichever holds them. Raises ValueError for a level beyond 32,767."""
    largest = int(np.abs(levels).max(initial=0))
    if largest > LARGEST_LEVEL:
        raise ValueError(f"{name}: a level of {largest} has no place in 16 bits")
    encoding = Encoding.GRID16 if largest > 127 else Encoding.GRID8
    return EncodedTensor(name, encoding, levels.astype(encoding.dtype), np.array([step], np.float32))


def on_base(name: str, values: Floats, base: EncodedTensor) -> EncodedTensor:
    """Nearest values that the base's own encoding has, with its offsets; ``values`` has the base's shape."""
    if len(base.offsets):
        return _beside_offsets(name, values, base)
    match base.encoding:
        case Encoding.FLOAT32:
            return float32_tensor(name, values)
        case Encoding.FLOAT16:
            return _as_half(name, values)
        case Encoding.CODEBOOK:
            order = np.argsort(base.scale, kind="stable")
            indices = order[_nearest(base.scale[order], values)].astype(np.uint8)
            return EncodedTensor(name, Encoding.CODEBOOK, indices, base.scale)
        case Encoding.GRID8 | Encoding.GRID16:
            limits = np.iinfo(base.encoding.dtype)
            multiples = np.clip(np.rint(values / base.steps), limits.min, limits.max)
            return EncodedTensor(name, base.encoding, multiples.astype(base.encoding.dtype), base.scale)


def _beside_offsets(name: str, values: Floats, base: EncodedTensor) -> EncodedTensor:
    """The nearest with the base's offsets, which differ above zero and below it and may carry a weight across."""
    plain = replace(base, offsets=NO_OFFSETS)
    wanted = [values - added for added in base.added] + [np.zeros_like(values)]
    ways = [replace(on_base(name, own, plain), offsets=base.offsets) for own in wanted]
    nearest = np.abs(np.stack([way.dequantize() for way in ways]) - values).argmin(axis=0)
    return replace(ways[0], values=np.choose(nearest, [way.values for way in ways]))


def finer_and_finer(name: str, values: Floats, base: EncodedTensor, own: EncodedTensor) -> Iterator[EncodedTensor]:
    """Encodings of a changed tensor, cheapest to reach from ``base`` first; the last one is exact."""
    nearest = on_base(name, values, base)
    if own.encoding is Encoding.CODEBOOK:
        # Shared values that moved change the codebook; weights that moved change indices.
        placed = in_base_order(own, base)
        candidates = [_in_steps(placed, base), placed]
        # A pruned weight stays zero, also where the base's codebook has none.
        if not nearest.dequantize()[values == 0].any():
            candidates.append(nearest)
        yield from sorted(candidates, key=lambda tensor: _changes(tensor, base))
    else:
        yield nearest
        yield from _halved(name, values, base, own)
    yield keep_exactly(name, values)


def _halved(name: str, values: Floats, base: EncodedTensor, own: EncodedTensor) -> Iterator[EncodedTensor]:
    """Grids with the base's step, or the tensor's own, and ever smaller halves of it."""
    coarsest = base if base.encoding in GRIDS and base.scale.size == 1 else own
    for halvings in range(MAX_HALVINGS + 1) if coarsest.encoding in GRIDS else ():
        yield on_grid(name, values, float(coarsest.scale[0]) / 2**halvings)


def _changes(tensor: EncodedTensor, base: EncodedTensor) -> int:
    """How many numbers differ; all of them where the encodings do."""
    if tensor.encoding is not base.encoding:
        return tensor.size
    entries = np.count_nonzero(tensor.scale != base.scale) if tensor.scale.shape == base.scale.shape else tensor.scale.size
    return int(np.count_nonzero(tensor.values != base.values)) + int(entries)


def in_base_order(tensor: EncodedTensor, base: EncodedTensor) -> EncodedTensor:
    """The same values with the codebook's entries where the base has those it used at the same positions.

    When training moves the shared values and leaves the assignment alone, no index changes then.
    """
    if base.encoding is not Encoding.CODEBOOK or base.shape != tensor.shape:
        return tensor
    size = max(tensor.scale.size, base.scale.size)
    pairs = tensor.values.astype(np.int64).ravel() * MAX_ENTRIES + base.values.ravel()
    together = np.bincount(pairs, minlength=MAX_ENTRIES**2).reshape(MAX_ENTRIES, MAX_ENTRIES)[: tensor.scale.size, :size]
    slots = np.full(tensor.scale.size, -1)
    for entry in np.argsort(-together.max(axis=1), kind="stable"):
        wanted = np.argsort(-together[entry], kind="stable")
        slots[entry] = next(int(slot) for slot in wanted if slot not in slots)
    # A slot that nobody took keeps what it had: no bytes in a delta.
    entries = np.concatenate([base.scale, np.zeros(size - base.scale.size, np.float32)])
    entries[slots] = tensor.scale
    return EncodedTensor(tensor.name, Encoding.CODEBOOK, slots[tensor.values].astype(np.uint8), entries)


def _in_steps(tensor: EncodedTensor, base: EncodedTensor) -> EncodedTensor:
    """Entries that moved by whole steps, a power of two an eighth to a quarter of their rms, which loses 0.3 % of the move."""
    if tensor.scale.shape != base.scale.shape:
        return tensor
    moves = tensor.scale.astype(np.float64) - base.scale
    uses = np.bincount(tensor.values.ravel(), minlength=moves.size) * (moves != 0)
    energy = float(uses @ np.square(moves)) / max(int(uses.sum()), 1)
    if not 0 < energy < np.inf:
        return tensor
    step = 2.0 ** (math.frexp(math.sqrt(energy))[1] - 3)
    entries = (base.scale + np.rint(moves / step) * step).astype(np.float16).astype(np.float32)
    if not np.isfinite(entries).all():
        return tensor
    # What is zero stays zero.
    return EncodedTensor(tensor.name, Encoding.CODEBOOK, tensor.values, np.where(tensor.scale == 0, np.float32(0), entries))


def _as_half(name: str, values: Floats) -> EncodedTensor:
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if _close(half.astype(np.float32), values):
        return EncodedTensor(name, Encoding.FLOAT16, half, NO_SCALE)
    return float32_tensor(name, values)


def _rounded(entries: Floats) -> Floats:
    """Entries as float16 values, without those that became equal; as they are where float16 is too coarse."""
    with np.errstate(over="ignore"):
        half = entries.astype(np.float16).astype(np.float32)
    return np.unique(half + np.float32(0)) if _close(half, entries) else entries


def _close(half: Floats, values: Floats) -> bool:
    return bool((np.abs(half - values) <= HALF_PRECISION * np.abs(values)).all())


def _nearest(entries: Floats, values: Floats) -> npt.NDArray[np.uint8]:
    """Index of the nearest of the sorted ``entries``; between two, the lower."""
    middles = (entries[1:].astype(np.float64) + entries[:-1]) / 2
    return np.searchsorted(middles, values.astype(np.float64)).astype(np.uint8)
