"""Coordinate descent on levels: one weight after the other takes the best level while all others stay.

A choice made in one pass counts on all later weights to make up for its error, and they do so on their grid only. Going over
the weights again finds levels that suit each other (Wright 2015, arXiv 1502.04759, for the method).

Rows do not see each other, and after a few sweeps nearly all weights stay: so a block of columns is looked at in one go, every
row takes the first change that it finds, and only rows that did are looked at again, from there on. Levels come out as one
weight after the other.
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
        moved = _settled(slopes[:, columns], moments[np.ix_(columns, columns)], pricing, levels, (group, columns))
        if moved.any():
            slopes -= moved @ moments[columns]


def _settled(
    slopes: Doubles, moments: Doubles, pricing: Pricing, levels: Integers, where: tuple[int, npt.NDArray[np.intp]]
) -> Doubles:
    """Revise some columns of ``levels``; returns by how much their weights moved, (outputs, columns)."""
    group, columns = where
    moved, strengths = np.zeros(slopes.shape), np.diag(moments)
    rows, done = np.arange(len(levels)), np.full(len(levels), -1)
    while rows.size:
        place = group, rows[:, np.newaxis], columns
        before = levels[place[1:]]
        best = best_levels(slopes[rows], strengths, pricing, before, place)
        changes = (best != before) & (np.arange(columns.size) > done[rows, np.newaxis])
        change = changes.any(axis=1)
        rows, at = rows[change], changes[change].argmax(axis=1)
        place = group, rows, columns[at]
        before, after = levels[place[1:]], best[change, at]
        moves = pricing.values(after, place) - pricing.values(before, place)
        levels[place[1:]] = after
        moved[rows, at], done[rows] = moves, at
        slopes[rows] -= moves[:, np.newaxis] * moments[at]
    return moved


def best_levels(slopes: Doubles, strength: float | Doubles, pricing: Pricing, levels: Integers, place: Place) -> Integers:
    """For every one of ``levels``, which are at ``place``, that of least damage + price x bits while all others stay."""
    best = pricing.values(levels, place) + slopes / strength
    base = pricing.base[place]
    candidates = np.stack([levels, base, *pricing.neighbours(best, place), np.full_like(base, pricing.lattice.zero)])
    return pricing.choose(best, candidates, place, strength)
