"""Tables that every reader has: two-sided geometric laws, for numbers that are mostly small and symbols that are mostly zero.

A delta tells many short rows of numbers, offsets and biases of layers, whose own tables would take as much room as they do. One
of thirty laws, ten spreads with three weights of zero, comes as near to each as is worth telling. All in integers; the page on
the format has the rules.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

# How likely each magnitude is beside the one below it, in 65536ths: 2^16 x 2^-(1/s) for spreads s from 45 to 0.18.
RATIOS = (64540, 63703, 62183, 59462, 54735, 46952, 35342, 20886, 7886, 1299)
# How much more likely zero is than that, in fifths.
ZEROS = (2, 5, 20)
LAWS = len(RATIOS) * len(ZEROS)
# Tokens of numbers (codecs/numbers.py) and values of 8-bit grids, where 128 is zero.
TOKENS, GRID, GRID_ZERO = 128, 256, 128
# Numbers from here on are as good as impossible.
LARGEST = 1 << 12
# The least that a symbol weighs beside all.
LEAST_SHARE_BITS = 19


def laws_of(alphabet: int) -> int:
    """How many laws there are for symbols 0..alphabet-1."""
    return LAWS if alphabet in (TOKENS, GRID) else 0


@lru_cache(maxsize=2 * LAWS)
def law_weights(alphabet: int, number: int) -> npt.NDArray[np.int64]:
    """The weights of all symbols under one law, each below 2^24."""
    ratio, zero = RATIOS[number // len(ZEROS)], ZEROS[number % len(ZEROS)]
    magnitudes = _magnitudes(ratio)
    if alphabet == GRID:
        weights = magnitudes[np.abs(np.arange(GRID, dtype=np.int64) - GRID_ZERO)]
        at = GRID_ZERO
    else:
        running = np.concatenate([[0], np.cumsum(magnitudes[(np.arange(LARGEST, dtype=np.int64) + 1) // 2])])
        weights = np.diff(running[np.minimum(_bounds(), LARGEST)])
        at = 0
    weights[at] = weights[at] * zero // 5
    return np.maximum(weights, int(weights.sum()) >> LEAST_SHARE_BITS)


def _magnitudes(ratio: int) -> npt.NDArray[np.int64]:
    """Of magnitudes 0, 1, 2 ..: 2^16, and each the ratio times the one below it, rounded down with 24 bits more."""
    found, weight, magnitude = np.zeros(LARGEST // 2 + 1, np.int64), 1 << 40, 0
    while magnitude < found.size and weight >> 24:
        found[magnitude] = weight >> 24
        weight, magnitude = weight * ratio >> 16, magnitude + 1
    return found


@cache
def _bounds() -> npt.NDArray[np.int64]:
    """The first number of every token, and the one behind the last."""
    tokens = np.arange(16, TOKENS + 1, dtype=np.int64)
    return np.concatenate([np.arange(16, dtype=np.int64), (4 + tokens % 4) << (tokens // 4 - 2)])
