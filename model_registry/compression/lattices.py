"""The values that a tensor's weights may take, numbered in rising order: the multiples of a step, or a codebook's entries; and
what their rows add to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from model_registry.compression.quantization import LARGEST_LEVEL
from model_registry.contract.codecs.prediction import WIDTHS, ZERO, eighths_below

Doubles = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]
# Of levels (groups, outputs, inputs) or (groups, outputs): one column of a group, some places there, a group, or all of them.
Place = tuple[int, slice, int] | tuple[int, npt.NDArray[np.intp], npt.NDArray[np.intp]] | tuple[int] | EllipsisType
# Zero is the last magnitude of levels that are known.
KNOWN_MAGNITUDES = ZERO + 1
# What the coder counts the magnitudes of 16-bit levels from.
LARGEST_MAGNITUDE = 2.0**15


class Lattice(Protocol):
    """Levels are integers of any shape; values are weights."""

    @property
    def kinds(self) -> int:
        """How many kinds of levels leave their place more or less easily."""

    @property
    def zero(self) -> int:
        """The level of the weight 0, or of the one nearest to it."""

    def values(self, levels: Integers) -> Doubles: ...

    def nearest(self, values: Doubles) -> Integers: ...

    def neighbours(self, values: Doubles) -> tuple[Integers, Integers]:
        """The levels below and above."""

    def kind(self, levels: Integers) -> Integers:
        """0 to ``kinds`` - 1."""

    def magnitude(self, levels: Integers) -> Integers:
        """0 to ``KNOWN_MAGNITUDES`` - 1, smaller for larger weights."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Multiples of ``step`` that 16 bits number; the kinds are "not zero" and "zero"."""

    step: float
    kinds: int = 2
    zero: int = 0

    def values(self, levels: Integers) -> Doubles:
        return levels * self.step

    def nearest(self, values: Doubles) -> Integers:
        return np.asarray(np.clip(np.rint(values / self.step), -LARGEST_LEVEL, LARGEST_LEVEL), np.int64)

    def neighbours(self, values: Doubles) -> tuple[Integers, Integers]:
        below = np.asarray(np.clip(np.floor(values / self.step), -LARGEST_LEVEL, LARGEST_LEVEL - 1), np.int64)
        return below, below + 1

    def kind(self, levels: Integers) -> Integers:
        return np.asarray(levels == 0, np.int64)

    def magnitude(self, levels: Integers) -> Integers:
        return _magnitudes(np.abs(levels), LARGEST_MAGNITUDE)


@dataclass(frozen=True, eq=False)
class Codebook:
    """Rising ``entries``; the kinds are the widths of their cells, and zero."""

    entries: Doubles

    @property
    def kinds(self) -> int:
        return WIDTHS + 1

    @cached_property
    def zero(self) -> int:
        return int(np.abs(self.entries).argmin())

    def values(self, levels: Integers) -> Doubles:
        return self.entries[levels]

    def nearest(self, values: Doubles) -> Integers:
        return np.searchsorted((self.entries[1:] + self.entries[:-1]) / 2, values).astype(np.int64)

    def neighbours(self, values: Doubles) -> tuple[Integers, Integers]:
        above = np.searchsorted(self.entries, values).astype(np.int64)
        return np.maximum(above - 1, 0), np.minimum(above, self.entries.size - 1)

    def kind(self, levels: Integers) -> Integers:
        return np.asarray(self._kinds[levels])

    def magnitude(self, levels: Integers) -> Integers:
        return np.asarray(self._magnitudes[levels])

    @cached_property
    def _magnitudes(self) -> Integers:
        weights = np.abs(self.entries)
        return _magnitudes(weights, float(weights.max()) or 1.0)

    @cached_property
    def _kinds(self) -> Integers:
        gaps = np.diff(self.entries, prepend=self.entries[0], append=self.entries[-1])
        cells = np.maximum(gaps[1:] + gaps[:-1], 1e-300)
        kinds: Integers = np.clip(np.rint(2 * np.log2(cells.max() / cells)), 0, WIDTHS - 1).astype(np.int64)
        kinds[self.zero] = WIDTHS
        return kinds


@dataclass(frozen=True, slots=True, eq=False)
class Offsets:
    """What rows add to their weights: ``above`` to those above zero, ``below`` to those below it; zero stays."""

    above: Doubles
    below: Doubles

    @classmethod
    def of(cls, shift: Doubles, stretch: Doubles) -> Offsets:
        return cls(shift + stretch, shift - stretch) if stretch.any() else cls(shift, shift)

    def added(self, weights: Doubles) -> Doubles:
        if self.above is self.below:
            return np.asarray(weights + (weights != 0) * self.above)
        return np.asarray(weights + (weights > 0) * self.above + (weights < 0) * self.below)

    def taken(self, weights: Doubles) -> Doubles:
        """What they leave to be told of about these weights."""
        return weights - (self.above if self.above is self.below else np.where(weights > 0, self.above, self.below))

    def over(self, shape: tuple[int, ...]) -> Offsets:
        """One for each weight."""
        above = np.broadcast_to(self.above, shape)
        return Offsets(above, above if self.above is self.below else np.broadcast_to(self.below, shape))

    def at(self, place: Place) -> Offsets:
        above = self.above[place]
        return Offsets(above, above if self.above is self.below else self.below[place])


def _magnitudes(weights: Doubles | Integers, largest: float) -> Integers:
    """As the coder of pruned networks bins them."""
    return np.where(weights == 0, ZERO, eighths_below(weights.astype(np.float64), largest)).astype(np.int64)
