"""Sparse changes of many tensors, told together.

What one tensor tells by itself costs tables and time, however little it is: a *pool* has the changes of all blocks up to about
2^19 values in a few partitions. Of a block the values stand in the order of their contexts. First comes how many of every
context change, then the gaps between those that do (or between those that do not, where these are rarer), then their steps.

A gap is sent in units of a quarter to an eighth of the mean gap in its context, so that contexts with many changes and contexts
with few have alike tokens and share tables; the bits below the unit follow as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.numbers import (
    bit_lengths,
    read_numbers,
    read_remainders,
    write_numbers,
    write_remainders,
)
from model_registry.contract.entropy import Integers, SymbolReader, SymbolWriter
from model_registry.contract.errors import MalformedArtifact

Long = npt.NDArray[np.int64]
Steps = npt.NDArray[np.signedinteger[Any]]

# Values in a block at most, and in a pool before its last block fewer than that.
SIZE = 1 << 19
# So many blocks have contexts that 16 bits tell apart.
BLOCKS = 256
# Bit lengths of how many values a context has, 1 to 20.
ROOMS = 21
# A unit is so many octaves below the mean gap, which is known to half an octave; mean gaps below 4 have classes of their own.
# None is below 2: where more than half changes, the others are told.
OCTAVES_BELOW = 2
CLASSES = 2 * OCTAVES_BELOW + 2


class Sized(Protocol):
    """A block of values."""

    @property
    def size(self) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What changes in a block of ``size`` values.

    ``room``: how many values each context has that occurs; ``ranks``: of those that change, rising, counted in the order of the
    contexts; their ``steps`` (from 1 on) stand in ``contexts`` below ``step_contexts``.
    """

    size: int
    room: Long
    ranks: Long
    steps: Integers
    contexts: Integers
    step_contexts: int


class Opened(Protocol):
    """A block whose contexts are known."""

    room: Long
    step_contexts: int

    def find(self, ranks: Long) -> Integers:
        """The values at these ranks change; the contexts of their steps."""

    def change(self, steps: Steps) -> None:
        """Change what was found."""


class Pending(Sized, Protocol):
    """A block that waits for its changes."""

    def open(self) -> Opened: ...


SomeSized = TypeVar("SomeSized", bound=Sized)


def write_pools(writer: SymbolWriter, blocks: Sequence[Changes]) -> None:
    """Append the changes of all blocks."""
    for pool in _pools(blocks):
        room = np.concatenate([block.room for block in pool])
        starts = np.cumsum([0, *(block.room.sum() for block in pool)])
        ranks = np.concatenate([start + block.ranks for start, block in zip(starts, pool, strict=False)])
        firsts = np.cumsum(room) - room
        counts = np.diff(np.searchsorted(ranks, firsts), append=ranks.size)
        write_numbers(writer, counts, bit_lengths(room), ROOMS)
        _write_gaps(writer, _turned(ranks, counts, room), np.minimum(counts, room - counts), room)
        steps = np.concatenate([block.steps for block in pool]).astype(np.int64)
        write_numbers(
            writer, steps - 1, *_numbered([block.contexts for block in pool], [block.step_contexts for block in pool])
        )


def read_pools(reader: SymbolReader, blocks: Sequence[Pending]) -> None:
    """Change the values of all ``blocks``. Raises MalformedArtifact."""
    for pool in _pools(blocks):
        opened = [block.open() for block in pool]
        room = np.concatenate([block.room for block in opened])
        counts = read_numbers(reader, room.size, bit_lengths(room), ROOMS).astype(np.int64)
        if (counts > room).any():
            raise MalformedArtifact("more values change than there are")
        ranks = _turned(_read_gaps(reader, np.minimum(counts, room - counts), room), counts, room)
        starts = np.cumsum([0, *(block.room.sum() for block in opened)])
        bounds = np.searchsorted(ranks, starts)
        found = [block.find(ranks[a:b] - s) for block, s, a, b in zip(opened, starts, bounds, bounds[1:], strict=False)]
        steps = read_numbers(reader, ranks.size, *_numbered(found, [block.step_contexts for block in opened])) + 1
        for block, a, b in zip(opened, bounds, bounds[1:], strict=False):
            block.change(steps[a:b])


def _pools(blocks: Sequence[SomeSized]) -> Iterator[list[SomeSized]]:
    pool: list[SomeSized] = []
    held = 0
    for block in blocks:
        pool.append(block)
        held += block.size
        if held >= SIZE or len(pool) == BLOCKS:
            yield pool
            pool, held = [], 0
    if pool:
        yield pool


def _turned(ranks: Long, counts: Long, room: Long) -> Long:
    """In contexts where most values change those that do not, and the other way round."""
    mostly = 2 * counts > room
    if not mostly.any():
        return ranks
    told = np.repeat(mostly, room)
    told[ranks] ^= True
    return np.flatnonzero(told)


def _write_gaps(writer: SymbolWriter, ranks: Long, counts: Long, room: Long) -> None:
    """``counts``: how many of ``ranks`` lie in each context."""
    within = ranks - np.repeat(np.cumsum(room) - room, counts)
    gaps = np.diff(within, prepend=-1) - 1
    opening = (np.cumsum(counts) - counts)[counts > 0]
    gaps[opening] = within[opening]
    widths, classes = _units(counts, room)
    write_numbers(writer, gaps >> widths, classes, CLASSES)
    write_remainders(writer, gaps, widths)


def _read_gaps(reader: SymbolReader, counts: Long, room: Long) -> Long:
    """The inverse of ``_write_gaps``."""
    widths, classes = _units(counts, room)
    gaps = read_numbers(reader, widths.size, classes, CLASSES).astype(np.int64) << widths
    gaps |= read_remainders(reader, widths)
    limits = np.repeat(room, counts)
    # Before they are summed up: what is beyond all sense must not overflow.
    ends = np.cumsum(np.minimum(gaps, limits) + 1)
    within = ends - 1 - np.repeat(np.concatenate([[0], ends])[np.cumsum(counts) - counts], counts)
    if (within >= limits).any():
        raise MalformedArtifact("a change lies beyond its context")
    ranks: Long = within + np.repeat(np.cumsum(room) - room, counts)
    return ranks


def _numbered(contexts: Sequence[Integers], counts: Sequence[int]) -> tuple[Integers, int]:
    """The contexts of all blocks, those of each behind those of the one before, and how many there are."""
    firsts = np.cumsum([0, *counts])
    numbered = [(block + first).astype(np.uint16) for block, first in zip(contexts, firsts, strict=False)]
    return np.concatenate(numbered), int(firsts[-1])


def _units(counts: Long, room: Long) -> tuple[Long, Long]:
    """Of every gap how many low bits are sent as they are, and its class."""
    halves = bit_lengths(np.square(room) // np.square(np.maximum(counts, 1))) - 1
    widths = np.maximum(halves // 2 - OCTAVES_BELOW, 0)
    classes = np.minimum(halves, 2 * OCTAVES_BELOW + halves % 2)
    return np.repeat(widths, counts), np.repeat(classes, counts)
