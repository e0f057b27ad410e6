"""Coordinate descent on levels: one weight after the other takes the best level while all others stay.

A choice made in one pass counts on all later weights to make up for its error, and they do so on their grid only. Going over
the weights again finds levels that suit each other (Wright 2015, arXiv 1502.04759, for the method).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.costs import Pricing
from model_registry.compression.lattices import Integers, Place

Doubles = npt.NDArray[np.floating[Any]]
BLOCK = 32


def sweep(slopes: Doubles, moments: Doubles, pricing: Pricing, levels: Integers, group: int) -> None:
    """Revise ``levels`` (outputs, inputs) of a group column by column, strongest input first, and keep the ``slopes`` true.

    ``slopes``: errors times ``moments``, (outputs, inputs) or with what comes after the inputs, such as a bias.
    """
    size = levels.shape[1]
    order = np.argsort(-np.diag(moments)[:size], kind="stable")
    for start in range(0, size, BLOCK):
        columns = order[start : start + BLOCK]
        moved = np.zeros((levels.shape[0], columns.size))
        near, inner = slopes[:, columns], moments[np.ix_(columns, columns)]
        for at, column in enumerate(columns):
            before = levels[:, column].copy()
            place = group, slice(None), column
            levels[:, column] = best_levels(near[:, at], float(inner[at, at]), pricing, before, place)
            moved[:, at] = pricing.values(levels[:, column], place) - pricing.values(before, place)
            near -= np.outer(moved[:, at], inner[at])
        slopes -= moved @ moments[columns]


def best_levels(slopes: Doubles, strength: float | Doubles, pricing: Pricing, levels: Integers, place: Place) -> Integers:
    """The levels of least damage + price x bits of one column, (outputs), while all others stay; ``place``: where it is."""
    best = pricing.values(levels, place) + slopes / strength
    base = pricing.base[place]
    candidates = np.stack([levels, base, *pricing.neighbours(best, place), np.full_like(base, pricing.lattice.zero)])
    return pricing.choose(best, candidates, place, strength)
