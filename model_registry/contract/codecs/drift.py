"""Floats that drifted: what training makes of a tensor whose weights are kept as floats.

An update moves all weights of a row by about the same distance, in absolute terms and in one direction. So every index of axis
0 sends a *centre* and a *spread*; a value is then the number of its cell, counted in quarters of the spread from the base's
weight plus the centre, and its place among the floats of that cell. Cells near zero hold more floats than others, so nothing is
lost and nothing is sent twice. Rows and columns that stay are left out; so are weights that the base has at zero, if they stay.
docs/container-format.md has the arithmetic, which is exact in double precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array, from_ordered, ordered
from model_registry.contract.codecs.numbers import (
    ALPHABET,
    bit_lengths,
    numbers_of,
    read_numbers,
    read_partitioned,
    tokens_of,
    write_numbers,
    write_partitioned,
)
from model_registry.contract.codecs.packing import pack, unpack
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]

# Spreads are half octaves: the number B > 0 means 2^(B/2 - 160), which spans all of float32.
SPREAD_OFFSET = 160
MAX_SPREAD = 640
# Cells and the grid of centres, in octaves below the spread.
CELL_OCTAVES = 2
# By how many octaves the spread is above the distance of neighbouring floats: told apart from -4 to 3.
LEAST_OCTAVES, MOST_OCTAVES = -4, 3
CONTEXTS = 2 * (MOST_OCTAVES - LEAST_OCTAVES + 1)
# How many shares of negative zeros in a row are told apart.
LEANS = 16
# Beside the two signs of a zero that stays one.
_MOVES = 2
BLOCK = 1 << 18
MAX_CENTRE = 1 << 30
MAX_CELL = 1 << 30
# What the encoder assumes: a row leans on its tensor as on so many values; a centre is sent where it saves about so many nats.
PRIOR_VALUES = 8
CENTRE_COST = 4


@dataclass(frozen=True, eq=False)
class _Rows:
    """Spread and centre of every row, and which columns move; a row whose spread is 0 stays.

    ``leans``: how many fifteenths of its zeros are negative (a pruned weight often ends as the zero of its row's direction);
    None where zeros stay as they are.
    """

    sides: tuple[int, int, int]
    spreads: Integers
    centres: Integers
    columns: npt.NDArray[np.bool_]
    leans: Integers | None

    @cached_property
    def shifts(self) -> Reals:
        """The centres as distances."""
        return np.ldexp(self.centres.astype(np.float64), _octaves(self.spreads) - CELL_OCTAVES)

    def moving(self, part: slice) -> tuple[slice | Integers, Integers]:
        """Of a block the places, counted from its start, in a moving row and column; and their rows."""
        _, side, crossing = self.sides
        places = np.arange(part.start, part.stop)
        rows = places // (side * crossing)
        if self.columns.all() and self.spreads[rows[0] : rows[-1] + 1].all():
            return slice(0, rows.size), rows
        found = np.flatnonzero(self.columns[places // crossing - rows * side] & (self.spreads[rows] > 0))
        return found, rows[found]


def _octaves(spreads: Integers) -> Integers:
    """Their binary logarithms, rounded down."""
    return (spreads >> 1) - SPREAD_OFFSET


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    """Where values are expected, how wide their cells are, and in which context the numbers of the cells stand."""

    expected: Reals
    widths: Reals
    contexts: Integers
    dtype: np.dtype[Any]

    @classmethod
    def around(cls, weights: Array, rows: _Rows, index: Integers, dtype: np.dtype[Any]) -> _Cells:
        """Cells for ``weights`` that lie in the rows ``index``."""
        info = np.finfo(dtype)
        with np.errstate(all="ignore"):
            moved = (weights + rows.shifts[index]).astype(dtype)
        expected = np.clip(moved, info.min, info.max).astype(np.float64)
        units = np.maximum(_exponents(expected), info.minexp) - info.nmant
        spreads = rows.spreads[index]
        above = _octaves(spreads) - units
        widths = _powers(units + np.maximum(above - CELL_OCTAVES, 0))
        contexts = 2 * (np.clip(above, LEAST_OCTAVES, MOST_OCTAVES) - LEAST_OCTAVES) + (spreads & 1)
        return cls(expected, widths, contexts, dtype)

    def bounds(self, cells: Integers) -> tuple[Integers, Integers]:
        """The first float of every cell as an ordered integer, and how many floats the cell has."""
        with np.errstate(all="ignore"):
            lows = ordered((self.expected + cells * self.widths).astype(self.dtype))
            highs = ordered((self.expected + (cells + 1) * self.widths).astype(self.dtype))
        return lows, highs - lows

    def find(self, values: Array) -> Integers | None:
        """The cell of every value; None when one is out of reach."""
        targets = ordered(values)
        cells = np.floor((values.astype(np.float64) - self.expected) / self.widths)
        if not (np.abs(cells) < MAX_CELL).all():
            return None
        found = cells.astype(np.int64)
        # A bound is a float itself: at the edge of a cell rounding may put the value next door.
        for _ in range(3):
            lows, sizes = self.bounds(found)
            below, above = targets < lows, targets >= lows + sizes
            if not (below.any() or above.any()):
                return found
            found += above.astype(np.int64) - below
        return None


def _exponents(values: Reals) -> Integers:
    """Of every number the power of two at or below it; far below everything for 0."""
    return ((values.view(np.int64) >> 52) & 0x7FF) - 1023


def _powers(exponents: Integers) -> Reals:
    """2 to the ``exponents``, which are far from the ends of double precision."""
    return ((exponents + 1023) << 52).view(np.float64)


def write_drift(sink: Sink, weights: Array, values: Array, shape: tuple[int, ...]) -> bool:
    """Code flat ``values`` by the base's ``weights``; False where a value is no number or out of reach."""
    if not np.isfinite(values).all():
        return False
    sides = _sides(shape)
    changed = _bits(values) != _bits(_stayed(weights, values.dtype))
    rows = _measure(weights, values, changed, sides)
    _write_rows(sink, rows)
    return all(_write_block(sink, weights, values, rows, part) for part in _blocks(sides))


def read_drift(source: Source, weights: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The inverse of ``write_drift``, flat. Raises MalformedArtifact."""
    sides = _sides(shape)
    rows = _read_rows(source, sides)
    values = _stayed(weights, dtype)
    for part in _blocks(sides):
        _read_block(source, weights, values, rows, part)
    return values


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Rows, columns and what lies at each of their crossings; a vector is one row of one column."""
    if len(shape) < 2:
        return 1, 1, math.prod(shape)
    return shape[0], shape[1], math.prod(shape[2:])


def _blocks(sides: tuple[int, int, int]) -> Iterator[slice]:
    size = math.prod(sides)
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def _stayed(weights: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return weights.astype(dtype)


def _bits(values: Array) -> Array:
    return values.view(f"<u{values.dtype.itemsize}")


def _measure(weights: Array, values: Array, changed: npt.NDArray[np.bool_], sides: tuple[int, int, int]) -> _Rows:
    """Spreads and centres that fit the changes; sums run in order, so that they are the same everywhere."""
    count, row_size = sides[0], max(sides[1] * sides[2], 1)
    used = changed & (weights != 0)
    used = used if used.any() else changed
    rows = np.flatnonzero(used) // row_size
    distances = values[used].astype(np.float64) - np.clip(weights[used].astype(np.float64), -1e38, 1e38)
    sizes = np.bincount(rows, minlength=count)
    means = np.bincount(rows, distances, count) / np.maximum(sizes, 1)
    squares = np.bincount(rows, np.square(distances - means[rows]), count)
    # Few values tell little about their row: they lean on the tensor.
    typical = squares.sum() / max(rows.size, 1)
    variances = (squares + PRIOR_VALUES * typical) / (sizes + PRIOR_VALUES)
    centred = np.square(means) * sizes > CENTRE_COST * variances
    variances = np.where(centred, variances, variances + np.square(means))
    moves = changed.reshape(count, -1).any(axis=1) if changed.size else np.zeros(count, np.bool_)
    spreads = np.where(moves, np.clip(np.frexp(variances)[1] + 2 * SPREAD_OFFSET, 1, MAX_SPREAD), 0).astype(np.int64)
    grid = np.ldexp(1.0, _octaves(spreads) - CELL_OCTAVES)
    centres = np.where(centred & moves, np.clip(np.rint(means / grid), -MAX_CENTRE, MAX_CENTRE), 0).astype(np.int64)
    columns = np.asarray(changed.reshape(sides).any(axis=(0, 2)))
    return _Rows(sides, spreads, centres, columns, _leans(weights, values, changed, row_size=row_size, count=count))


def _leans(weights: Array, values: Array, changed: npt.NDArray[np.bool_], *, row_size: int, count: int) -> Integers | None:
    zeros = np.flatnonzero((weights == 0) & (values == 0))
    if not changed[weights == 0].any():
        return None
    rows = zeros // row_size
    sizes, negative = np.bincount(rows, minlength=count), np.bincount(rows[np.signbit(values[zeros])], minlength=count)
    leans: Integers = (negative * (2 * LEANS - 2) + sizes) // np.maximum(2 * sizes, 1)
    return leans


def _write_rows(sink: Sink, rows: _Rows) -> None:
    write_numbers(sink.symbols, zigzag(np.diff(rows.spreads, prepend=0)))
    write_numbers(sink.symbols, zigzag(rows.centres[rows.spreads > 0]))
    sink.symbols.partition(rows.columns.astype(np.int64), 2)
    sink.symbols.bits(np.array([rows.leans is None]), 1)
    if rows.leans is not None:
        sink.symbols.partition(rows.leans[rows.spreads > 0], LEANS)


def _read_rows(source: Source, sides: tuple[int, int, int]) -> _Rows:
    spreads = np.cumsum(unzigzag(read_numbers(source.symbols, sides[0])))
    if spreads.size and not 0 <= spreads.min() <= spreads.max() <= MAX_SPREAD:
        raise MalformedArtifact("a row's spread is out of range")
    centres = np.zeros(sides[0], np.int64)
    moving = np.flatnonzero(spreads)
    centres[moving] = unzigzag(read_numbers(source.symbols, moving.size))
    columns = source.symbols.partition(sides[1], 2, np.bool_)
    leans = None if source.symbols.bits(1, 1)[0] else np.zeros(sides[0], np.int64)
    if leans is not None:
        leans[moving] = source.symbols.partition(moving.size, LEANS, np.int64)
    return _Rows(sides, spreads, centres, columns, leans)


def _write_block(sink: Sink, weights: Array, values: Array, rows: _Rows, part: slice) -> bool:
    places, index = rows.moving(part)
    old, new = weights[part][places], values[part][places]
    zeros = np.flatnonzero(old == 0)
    moves = old != 0
    if rows.leans is not None:
        fates = np.where(new[zeros] != 0, _MOVES, np.signbit(new[zeros]))
        write_partitioned(sink.symbols, fates, rows.leans[index[zeros]], alphabet=3, count=LEANS)
        moves[zeros] = fates == _MOVES
    cells = _Cells.around(old[moves], rows, index[moves], values.dtype)
    found = cells.find(new[moves])
    if found is None:
        return False
    tokens, widths = tokens_of(zigzag(found))
    write_partitioned(sink.symbols, tokens, cells.contexts, alphabet=ALPHABET, count=CONTEXTS)
    sink.blob += pack(zigzag(found), widths)
    lows, sizes = cells.bounds(found)
    sink.blob += pack(ordered(new[moves]) - lows, bit_lengths(np.maximum(sizes - 1, 0)))
    return True


def _read_block(source: Source, weights: Array, values: Array, rows: _Rows, part: slice) -> None:
    """Overwrite the values of a block that move."""
    places, index = rows.moving(part)
    old, fresh = weights[part][places], values[part][places]
    moves = old != 0
    zeros = np.flatnonzero(~moves)
    if rows.leans is not None:
        contexts = rows.leans[index[zeros]]
        fates = read_partitioned(source.symbols, zeros.size, contexts, alphabet=3, count=LEANS, dtype=np.uint8)
        moves[zeros] = fates == _MOVES
        fresh[zeros] = np.where(fates == 1, values.dtype.type(-0.0), values.dtype.type(0.0))
    kept = np.flatnonzero(moves)
    cells = _Cells.around(old[kept], rows, index[kept], values.dtype)
    size = cells.contexts.size
    tokens = read_partitioned(source.symbols, size, cells.contexts, alphabet=ALPHABET, count=CONTEXTS, dtype=np.int64)
    numbers, long, widths = numbers_of(tokens)
    numbers[long] |= unpack(source.blob, widths)
    lows, sizes = cells.bounds(unzigzag(numbers))
    offsets = unpack(source.blob, bit_lengths(np.maximum(sizes - 1, 0)))
    fresh[kept] = from_ordered(lows + offsets, values.dtype)
    values[part][places] = fresh
