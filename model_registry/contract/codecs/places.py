"""Where the values of a block stand, in the order of their contexts.

A reader looks up few of many places. Fresh memory costs more than sorting, so a block is sorted in stretches, of which little
is kept.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.numbers import context_type
from model_registry.contract.entropy import Integers

Long = npt.NDArray[np.int64]
# Of which 16 bits tell all places, and little memory is in use at once.
STRETCH = 1 << 13


class Places(Protocol):
    """``room``: how many values each context has that occurs."""

    room: Long

    def at(self, ranks: Long) -> Long:
        """The places of values, given by their rising ranks in the order of contexts."""


class Alike:
    """All values stand in one context."""

    def __init__(self, size: int) -> None:
        self.room: Long = np.array([size], np.int64)

    def at(self, ranks: Long) -> Long:
        return ranks


class Sorted:
    """By contexts 0..count-1; values with others are left out."""

    def __init__(self, contexts: Integers, count: int) -> None:
        wanted = np.arange(count + 1).astype(context_type(count))
        self._order, found = np.empty(contexts.size, np.uint16), []
        for start in range(0, max(contexts.size, 1), STRETCH):
            stretch = contexts[start : start + STRETCH].astype(context_type(count), copy=False)
            order = stretch.argsort(kind="stable")
            self._order[start : start + STRETCH] = order
            found.append(stretch.searchsorted(wanted, sorter=order))
        bounds = np.array(found)
        sizes = bounds[:, 1:] - bounds[:, :-1]
        occurring = np.flatnonzero(sizes.any(axis=0))
        self.room: Long = sizes[:, occurring].sum(axis=0)
        # For every context its part of every stretch: up to which rank it goes, and how a rank becomes a sorted place.
        self._stretches = np.tile(STRETCH * np.arange(len(bounds)), occurring.size)
        self._ends = np.cumsum(sizes[:, occurring].T)
        begins = bounds[:, occurring].T.ravel() + self._stretches
        self._shifts = begins - np.concatenate([[0], self._ends[:-1]])

    def at(self, ranks: Long) -> Long:
        hits = np.diff(np.searchsorted(ranks, self._ends), prepend=0)
        return np.asarray(self._order[ranks + np.repeat(self._shifts, hits)] + np.repeat(self._stretches, hits))
