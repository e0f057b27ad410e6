"""The contexts of changes: the kind of the prediction, and how much changes in the value's row and column.

The latter, the *activity*, is sent first, as bit lengths of the numbers of changes; where a row or column has none, nothing
is coded. Those of rows may stand in contexts by how far the rows' offsets moved (moves.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array, look_up
from model_registry.contract.codecs.moves import CLASSES, Moves
from model_registry.contract.codecs.numbers import bit_lengths, blocks, context_type, read_numbers, write_numbers
from model_registry.contract.codecs.prediction import Prediction
from model_registry.contract.entropy import Integers, SymbolReader, SymbolWriter
from model_registry.contract.errors import MalformedArtifact

ALPHABET = 33
# Sums of row and column activity above this share a context.
MOST = 15
# Activity of a row or column without changes, so that a sum tells whether one of the two has none.
NOTHING = 100


class Activity(IntEnum):
    """Which numbers of changes are sent."""

    NONE = 0
    ROWS = 1
    ROWS_AND_COLUMNS = 2

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Activity takes room by the sides: an empty tensor has none to send, however long its sides are."""
        return self is Activity.NONE or (len(shape) > 1 and math.prod(shape) > 0)


class Contexts:
    """The contexts of one tensor's values; both directions go through the same.

    ``moves``: the class of every row, if those are to tell something of its activity.
    """

    def __init__(self, shape: tuple[int, ...], activity: Activity, moves: Moves | None = None) -> None:
        self._size = math.prod(shape)
        self._moves = moves
        self._lengths = shape[:activity]
        self._activity: list[Integers] = []

    def write(self, writer: SymbolWriter, prediction: Prediction, values: Array) -> None:
        """Measure and send how much changes."""
        self._activity = self._measure(prediction, values)
        for axis, lengths in enumerate(self._activity):
            if self._moves is None:
                writer.partition(lengths, ALPHABET)
            else:
                write_numbers(writer, lengths, *self._classes(axis))

    def read(self, reader: SymbolReader) -> None:
        """Raises MalformedArtifact."""
        self._activity = [self._read(reader, axis) for axis in range(len(self._lengths))]

    def _read(self, reader: SymbolReader, axis: int) -> Integers:
        if self._moves is None:
            return reader.partition(self._lengths[axis], ALPHABET, np.uint8)
        lengths = read_numbers(reader, self._lengths[axis], *self._classes(axis))
        if lengths.max(initial=0) >= ALPHABET:
            raise MalformedArtifact("the number of changes in a row or column has too many bits")
        return lengths.astype(np.uint8)

    def _classes(self, axis: int) -> tuple[Moves | None, int]:
        """The contexts of an axis's lengths: columns are all alike."""
        return (self._moves, CLASSES) if axis == 0 else (None, 1)

    @cached_property
    def _levels(self) -> list[npt.NDArray[np.uint8]]:
        """The activity as it is summed up."""
        return [np.where(lengths > 0, lengths, NOTHING).astype(np.uint8) for lengths in self._activity]

    @property
    def changing_rows(self) -> npt.NDArray[np.bool_]:
        """In which rows values change; there has to be an activity of rows."""
        return np.asarray(self._activity[0] > 0)

    def of(self, kinds: npt.NDArray[np.uint8], count: int, part: slice) -> tuple[Integers, int]:
        """The context of every value of a block, given ``kinds`` 0..count-1, and how many contexts there are.

        Where nothing is coded the context is this number or more. Takes time and memory by the block, however large the tensor
        is.
        """
        if not self._activity:
            return kinds, count
        touched, none = self._touched(part), (MOST + 1) * count
        contexts = self._spread_out(self._crossings(touched, count), touched, part)
        # Everywhere, which is quicker than where something is coded; a type for 16 x count contexts has room for count more.
        contexts += kinds
        return contexts, none

    def _touched(self, part: slice) -> slice:
        """The rows, or crossings of a row and a column, that a block has values of."""
        return slice(part.start // self._width, (part.stop - 1) // self._width + 1)

    @property
    def _width(self) -> int:
        """Values in a row or crossing."""
        return self._size // math.prod(self._lengths)

    def _crossings(self, touched: slice, kinds: int) -> Integers:
        """The first context of some rows or crossings; the number of contexts where nothing changes.

        The sum of the activities tells the context.
        """
        rows, *columns = self._levels
        if not columns:
            return _first_contexts(rows[touched], kinds)
        across, found = columns[0], []
        for some, part in _rectangles(touched, across.size):
            found.append((rows[some, np.newaxis] + across[part]).ravel())
        return _first_contexts(np.concatenate(found), kinds)

    def _spread_out(self, crossings: Integers, touched: slice, part: slice) -> Integers:
        """A number for each crossing that is touched as a number for each value of a block."""
        width, size = self._width, part.stop - part.start
        if width == 1:
            return crossings
        before = part.start - touched.start * width
        if crossings.size <= 2:
            first = min(width - before, size)
            return np.repeat(crossings, [first, size - first][: crossings.size])
        return np.repeat(crossings, width)[before : before + size]

    def _measure(self, prediction: Prediction, values: Array) -> list[Integers]:
        """Bit lengths of the number of changes in every row, and in every column."""
        counts = np.zeros(math.prod(self._lengths), np.int64)
        for part in blocks(self._size) if self._lengths else ():
            changed = prediction.new.integers(values[part]).astype(np.int64) != prediction.integers(part)
            touched = self._touched(part)
            crossings = self._spread_out(np.arange(touched.start, touched.stop), touched, part)
            counts += np.bincount(crossings[changed], minlength=counts.size)
        grid = counts.reshape(self._lengths)
        sums = [grid.sum(axis=tuple(a for a in range(grid.ndim) if a != axis)) for axis in range(len(self._lengths))]
        return [bit_lengths(count) for count in sums]


def _first_contexts(sums: npt.NDArray[np.uint8], kinds: int) -> Integers:
    every, none = np.arange(256), (MOST + 1) * kinds
    table = np.where(every < NOTHING, np.minimum(every, MOST) * kinds, none).astype(context_type(none))
    return look_up(table, sums) if table.dtype == np.uint8 else np.asarray(table[sums])


def _rectangles(touched: slice, side: int) -> Iterator[tuple[slice, slice]]:
    """A run of crossings as rows and columns of it: what is left of the first row, whole rows, what there is of the last."""
    (top, left), (bottom, right) = divmod(touched.start, side), divmod(touched.stop, side)
    if top == bottom:
        yield slice(top, top + 1), slice(left, right)
        return
    whole = top
    if left:
        yield slice(top, top + 1), slice(left, side)
        whole += 1
    if whole < bottom:
        yield slice(whole, bottom), slice(0, side)
    if right:
        yield slice(bottom, bottom + 1), slice(0, right)
