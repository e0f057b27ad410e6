"""How far the offsets of rows moved: where a row's did, more of its weights change by themselves.

A retrained head moves the rows of the classes that it met; both follow. So the numbers of changes in the rows of such a tensor
are told in contexts, for which its offsets come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.numbers import blocks

Floats = npt.NDArray[np.float32]
Moves = npt.NDArray[np.uint8]
NO_MOVES: Moves = np.zeros(0, np.uint8)
# None; then octaves below the farthest, the last of them first.
CLASSES = 5
# Below every exponent, and no overflow when one is taken from another.
UNMOVED = -(1 << 14)


def classes_of(before: Floats, after: Floats) -> Moves:
    """The class of every row, 0 to ``CLASSES`` - 1, by its offset; 0 where it did not move, or not by a finite number.

    One subtraction that IEEE 754 rounds, and exponents: the same on every machine.
    """
    exponents = np.empty(before.size, np.int16)
    for part in blocks(before.size):
        exponents[part] = _exponents(before[part], after[part])
    farthest = exponents.max(initial=UNMOVED)
    classes = np.maximum(exponents - farthest + np.int16(CLASSES - 1), 1)
    return np.where(exponents > UNMOVED, classes, 0).astype(np.uint8)


def _exponents(before: Floats, after: Floats) -> npt.NDArray[np.int16]:
    with np.errstate(all="ignore"):
        moves = np.abs(after - before)
    moved = np.isfinite(moves) & (moves > 0)
    return np.where(moved, np.frexp(np.where(moved, moves, 1))[1], UNMOVED).astype(np.int16)
