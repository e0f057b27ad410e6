"""What the base says about a new tensor's values, and in which context each of them is coded.

Every value is predicted by its integer (the same rank of the codebook, the same grid value, the same bits) or by its weight
(the nearest that the new scale has). Where the shapes differ only their overlap is predicted; elsewhere it is the weight 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array, IntegerView, look_up
from model_registry.contract.tensors import EncodedTensor, Encoding

Integers = npt.NDArray[np.integer[Any]]

# Contexts of floats: so many binary orders of magnitude below the block's largest are told apart.
EXPONENTS = 16
# Contexts of codebooks: so many half octaves of the width of an entry's cell.
WIDTHS = 12
# Magnitudes of integers: eighths of an octave below the largest there can be, so many octaves down; zero; and unknown.
OCTAVES = 15
ZERO = 8 * OCTAVES + 1
MAGNITUDES = ZERO + 2


@dataclass(frozen=True, eq=False)
class Prediction:
    """``aligned``: the base's values (read through ``old``) or weights (``old`` is None) in the new shape, flat.

    ``table``: the predicted integer of each of the 256 values that ``aligned`` can have, where these are so few.
    ``known``: where the base has a value; None means everywhere. ``row_size``: values in one index of axis 0.
    """

    old: IntegerView | None
    new: IntegerView
    aligned: Array
    known: npt.NDArray[np.bool_] | None
    row_size: int
    table: Array | None = None

    @property
    def kinds(self) -> int:
        """How many contexts ``kind`` tells apart."""
        match self.new.encoding:
            case Encoding.CODEBOOK:
                return WIDTHS + 2
            case Encoding.GRID8 | Encoding.GRID16:
                return 3
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return EXPONENTS + 1

    def block(self, part: slice) -> PredictedBlock:
        """The same as ``integers`` and ``kind`` tell, in less time where a table has it."""
        if self.table is None or self.known is not None or self.new.alphabet is None:
            return PredictedBlock(self, part, self.integers(part))
        return PredictedBlock(self, part, self.aligned[part], self.table)

    def integers(self, part: slice) -> Integers:
        """The predicted integers of a block, as ``new.dtype``."""
        values = self.aligned[part]
        predicted = self._predicted(values, part.start) if self.table is None else self._tabled(self.table, values)
        if self.known is not None:
            predicted[~self.known[part]] = max(self.new.zero, 0)
        return predicted

    def _tabled(self, table: Array, values: npt.NDArray[np.uint8]) -> Integers:
        return look_up(table, values) if self.new.alphabet else table[values]

    def _predicted(self, values: Array, start: int) -> Integers:
        if self.old is None:
            return self._nearest(values, start).astype(self.new.dtype, copy=False)
        predicted = self.old.integers(values).astype(self.new.dtype)
        return np.minimum(predicted, self.new.alphabet - 1) if self.new.alphabet else predicted

    def kind(self, predicted: Integers, part: slice) -> npt.NDArray[np.uint8]:
        """Context of every value; the last one is that of values which the base does not have.

        Grids: is the predicted weight zero? Codebooks: that, and how wide the entry's cell is, because a weight leaves a narrow
        cell more easily. Floats: how far the exponent is below the block's largest, because updates are of one size.
        """
        if self.new.encoding is Encoding.CODEBOOK:
            kinds = look_up(self._widths, predicted.astype(np.uint8, copy=False))
        elif self.new.is_integer:
            kinds = (predicted == self.new.zero).view(np.uint8)
        else:
            exponents = self.new.exponents(predicted)
            kinds = np.minimum(exponents.max(initial=0) - exponents, EXPONENTS - 1).astype(np.uint8)
        if self.known is not None:
            kinds[~self.known[part]] = self.kinds - 1
        return kinds

    def magnitude(self, predicted: Integers, part: slice) -> npt.NDArray[np.uint8]:
        """How small the predicted weight is, 0 to ``MAGNITUDES`` - 1; of integers only.

        Pruning takes the weights below a threshold, so that it matters which side of it a context lies on.
        """
        if self.new.alphabet:
            magnitudes = look_up(self._magnitudes, predicted.astype(np.uint8, copy=False))
        else:
            magnitudes = eighths_below(np.abs(predicted).astype(np.float64), float(1 << (self.new.width - 1)))
            magnitudes[predicted == self.new.zero] = ZERO
        if self.known is not None:
            magnitudes[~self.known[part]] = MAGNITUDES - 1
        return magnitudes

    @cached_property
    def _magnitudes(self) -> npt.NDArray[np.uint8]:
        """Of every symbol."""
        if self.new.encoding is Encoding.CODEBOOK:
            weights = np.abs(self.new.scale[self.new.entries].astype(np.float64))
            weights[~np.isfinite(weights)] = 0
            magnitudes = eighths_below(weights, float(weights.max()) or 1.0)
        else:
            magnitudes = eighths_below(np.abs(np.arange(256.0) - self.new.zero), float(1 << (self.new.width - 1)))
        if self.new.zero >= 0:
            magnitudes[self.new.zero] = ZERO
        return magnitudes

    @cached_property
    def _widths(self) -> npt.NDArray[np.uint8]:
        """For every rank of a codebook, by how many half octaves its cell is narrower than the widest; zero stands apart."""
        with np.errstate(all="ignore"):
            levels = self.new.scale[self.new.entries].astype(np.float64)
            cells = np.zeros_like(levels)
            gaps = levels[1:] - levels[:-1]
            cells[1:] = gaps
            cells[:-1] += gaps
            half_octaves = np.frexp(np.where(np.isfinite(cells), cells * cells, 0))[1].astype(np.int64)
        widths = np.minimum(half_octaves.max() - half_octaves, WIDTHS - 1)
        return np.where(np.arange(widths.size) == self.new.zero, WIDTHS, widths).astype(np.uint8)

    def _nearest(self, weights: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.int64]:
        """The integer of the nearest weight, by double precision operations that IEEE 754 rounds in one way only."""
        match self.new.encoding:
            case Encoding.CODEBOOK:
                levels = self.new.scale[self.new.entries].astype(np.float64)
                return np.searchsorted((levels[1:] + levels[:-1]) / 2, weights.astype(np.float64)).astype(np.int64)
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                with np.errstate(over="ignore"):
                    return self.new.integers(weights.astype(self.new.encoding.dtype)).astype(np.int64)
            case Encoding.GRID8 | Encoding.GRID16:
                half = 1 << (self.new.width - 1)
                with np.errstate(all="ignore"):
                    steps = self.new.scale.astype(np.float64)
                    if steps.size > 1:
                        steps = steps[np.arange(start, start + weights.size) // self.row_size]
                    nearest = np.rint(weights.astype(np.float64) / steps)
                beyond = ~np.isfinite(nearest)
                if beyond.any():
                    nearest[beyond] = 0
                return np.clip(nearest, -half, half - 1, out=nearest).astype(np.int64) + self.new.zero


@dataclass(frozen=True, slots=True, eq=False)
class PredictedBlock:
    """What is predicted of a block: the integers ``index``, or ``table[index]`` where there is a table."""

    prediction: Prediction
    part: slice
    index: Array
    table: Array | None = None

    def at(self, places: slice | npt.NDArray[np.int64]) -> Integers:
        """The predicted integers at these places."""
        index: Integers = self.index[places]
        return index if self.table is None else np.asarray(self.table[index])

    def kinds(self) -> npt.NDArray[np.uint8]:
        if self.table is None:
            return self.prediction.kind(self.index, self.part)
        return look_up(self.prediction.kind(self.table, slice(0, self.table.size)), self.index)

    def magnitudes(self) -> npt.NDArray[np.uint8]:
        if self.table is None:
            return self.prediction.magnitude(self.index, self.part)
        return look_up(self.prediction.magnitude(self.table, slice(0, self.table.size)), self.index)

    def values(self) -> Array:
        """The values that are predicted."""
        view = self.prediction.new
        if self.table is None:
            return view.values(self.index)
        listed = view.values(self.table)
        bytes_of = listed.view(np.uint8)
        used = int(self.index.max(initial=0)) + 1
        found = self.index if (bytes_of[:used] == np.arange(used)).all() else look_up(bytes_of, self.index)
        return found.view(listed.dtype)


def eighths_below(weights: npt.NDArray[np.float64], largest: float) -> npt.NDArray[np.uint8]:
    """By how many eighths of an octave weights from 0 on are below ``largest``: three squares and an exponent, all of it exact
    or rounded as IEEE 754 says.
    """
    ratios = np.maximum(weights / largest, 2.0**-OCTAVES)
    for _ in range(3):
        ratios *= ratios
    return (1 - np.frexp(ratios)[1]).astype(np.uint8)


def predicts(old: EncodedTensor, new: IntegerView, shape: tuple[int, ...], *, by_weight: bool) -> bool:
    """Whether the base's tensor says anything: not with another rank, other integers, or no order among entries."""
    if len(old.shape) != len(shape) or (not by_weight and old.encoding is not new.encoding):
        return False
    return not by_weight or new.encoding is not Encoding.CODEBOOK or bool(np.isfinite(new.scale).all())


def predictions(old: EncodedTensor, new: IntegerView, shape: tuple[int, ...]) -> Iterator[tuple[bool, Prediction]]:
    """By integer, and by weight where that is something else: whether it is by weight, and the prediction."""
    same_integers = old.encoding is new.encoding and old.scale.tobytes() == new.scale.tobytes()
    for by_weight in (False,) if same_integers else (False, True):
        prediction = predict(old, new, shape, by_weight=by_weight)
        if prediction:
            yield by_weight, prediction


def predict(old: EncodedTensor, new: IntegerView, shape: tuple[int, ...], *, by_weight: bool) -> Prediction | None:
    """Lay the base's tensor over ``shape``. None when it says nothing."""
    if not predicts(old, new, shape, by_weight=by_weight):
        return None
    # A view finds out about its codebook when asked, once.
    same = old.encoding is new.encoding and old.scale is new.scale
    view = None if by_weight else new if same else IntegerView(old.encoding, old.scale)
    row_size = max(math.prod(shape[1:]), 1)
    if _is_tabled(old, new):
        # Listed, they are predicted like any others: all rows are alike.
        listed = _every_value(old)
        if by_weight:
            listed = _numbers(EncodedTensor(old.name, old.encoding, listed, old.scale), new)
        table = Prediction(view, new, listed, None, row_size).integers(slice(0, listed.size))
        values, known = _laid(old.values.view(np.uint8), shape)
        return Prediction(view, new, values, known, row_size, table)
    values, known = _laid(_numbers(old, new) if by_weight else old.values, shape)
    return Prediction(view, new, values, known, row_size)


def _is_tabled(old: EncodedTensor, new: IntegerView) -> bool:
    """Whether the prediction depends on the base's value alone, which is one byte, and there are more values than bytes."""
    if old.values.size <= 256:
        return False
    one_byte = old.encoding is Encoding.CODEBOOK or (old.encoding is Encoding.GRID8 and old.scale.size == 1)
    return one_byte and (new.scale.size == 1 or new.encoding is Encoding.CODEBOOK)


def _every_value(old: EncodedTensor) -> Array:
    """All 256 bytes as values; those beyond a codebook never occur and stand for its last entry."""
    every = np.arange(256).astype(np.uint8)
    return np.minimum(every, old.scale.size - 1) if old.encoding is Encoding.CODEBOOK else every.view(np.int8)


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[slice, ...]:
    """Where two shapes of one rank overlap."""
    return tuple(slice(0, min(sides)) for sides in zip(one, other, strict=True))


def _laid(values: Array, shape: tuple[int, ...]) -> tuple[Array, npt.NDArray[np.bool_] | None]:
    """The base's values in the new shape, flat, and where they are known (None: everywhere)."""
    if values.shape == shape:
        return values.ravel(), None
    shared = overlap(values.shape, shape)
    aligned, known = np.zeros(shape, values.dtype), np.zeros(shape, np.bool_)
    aligned[shared], known[shared] = values[shared], True
    return aligned.ravel(), known.ravel()


def _numbers(old: EncodedTensor, new: IntegerView) -> npt.NDArray[np.float32]:
    """The base's weights, without its offsets where the new tensor may have its own; what is not a number counts as 0."""
    with np.errstate(all="ignore"):
        weights = old.without_offsets() if new.is_integer else old.dequantize()
    unknown = np.isnan(weights)
    return np.where(unknown, np.float32(0), weights) if unknown.any() else weights
