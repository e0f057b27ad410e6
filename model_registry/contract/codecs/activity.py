"""The contexts of changes: the kind of the prediction, and how much changes in the value's row and column.

The latter, the *activity*, is sent first, as bit lengths of the numbers of changes; where a row or column has none, nothing
is coded.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array
from model_registry.contract.codecs.numbers import bit_lengths, blocks, context_type
from model_registry.contract.codecs.prediction import Prediction
from model_registry.contract.entropy import SymbolReader, SymbolWriter

Integers = npt.NDArray[np.integer[Any]]

ALPHABET = 33
# Sums of row and column activity above this share a context.
MOST = 15


class Activity(IntEnum):
    """Which numbers of changes are sent."""

    NONE = 0
    ROWS = 1
    ROWS_AND_COLUMNS = 2

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Activity takes room by the sides: an empty tensor has none to send, however long its sides are."""
        return self is Activity.NONE or (len(shape) > 1 and math.prod(shape) > 0)


class Contexts:
    """The contexts of one tensor's values; both directions go through the same."""

    def __init__(self, shape: tuple[int, ...], activity: Activity) -> None:
        self._size = math.prod(shape)
        self._lengths = (*shape, 1, 1)[:2][:activity]
        self._activity: list[Integers] = []

    def write(self, writer: SymbolWriter, prediction: Prediction, values: Array) -> None:
        """Measure and send how much changes."""
        self._activity = self._measure(prediction, values)
        for lengths in self._activity:
            writer.partition(lengths, ALPHABET)

    def read(self, reader: SymbolReader) -> None:
        self._activity = [reader.partition(length, ALPHABET, np.int64) for length in self._lengths]

    def of(self, kinds: npt.NDArray[np.uint8], count: int, part: slice) -> tuple[Integers, int]:
        """The context of every value of a block, given ``kinds`` 0..count-1, and how many contexts there are.

        Where nothing is coded the context is this number.
        """
        if not self._activity:
            return kinds, count
        contexts, none = self._spread_out(self._crossings(count), part), (MOST + 1) * count
        np.add(contexts, kinds, out=contexts, where=contexts < none)
        return contexts, none

    def _crossings(self, kinds: int) -> Integers:
        """Of every row, or every crossing of a row and a column, the first of its contexts; their number where nothing changes.

        The sum of the activities tells the context.
        """
        rows, *columns = (activity.astype(np.int16) for activity in self._activity)
        sums, active = rows, rows > 0
        for column in columns:
            sums, active = rows[:, np.newaxis] + column, active[:, np.newaxis] & (column > 0)
        none = (MOST + 1) * kinds
        return np.where(active, np.minimum(sums, MOST) * kinds, none).astype(context_type(none)).ravel()

    def _spread_out(self, crossings: Integers, part: slice) -> Integers:
        """A number for each crossing as a number for each value of a block."""
        width = max(self._size // max(crossings.size, 1), 1)
        first, last = part.start // width, (part.stop - 1) // width + 1
        return np.repeat(crossings[first:last], width)[part.start - first * width : part.stop - first * width]

    def _measure(self, prediction: Prediction, values: Array) -> list[Integers]:
        """Bit lengths of the number of changes in every row, and in every column."""
        counts = np.zeros(math.prod(self._lengths), np.int64)
        for part in blocks(self._size) if self._lengths else ():
            changed = prediction.new.integers(values[part]).astype(np.int64) != prediction.integers(part)
            crossings = self._spread_out(np.arange(counts.size), part)
            counts += np.bincount(crossings[changed], minlength=counts.size)
        grid = counts.reshape(self._lengths)
        sums = [grid.sum(axis=tuple(a for a in range(grid.ndim) if a != axis)) for axis in range(len(self._lengths))]
        return [bit_lengths(count) for count in sums]
