"""How far the offsets of rows moved: where a row's did, more of its weights change by themselves.

A retrained head moves the rows of the classes that it met; both follow. So the numbers of changes in the rows of such a tensor
are told in contexts, for which its offsets come first.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Moves = npt.NDArray[np.uint8]
NO_MOVES: Moves = np.zeros(0, np.uint8)
# None; then octaves below the farthest, the last of them first.
CLASSES = 5


def classes_of(before: Floats, after: Floats) -> Moves:
    """The class of every row, 0 to ``CLASSES`` - 1, by its offset; 0 where it did not move, or not by a finite number.

    One subtraction that IEEE 754 rounds, and exponents: the same on every machine.
    """
    with np.errstate(all="ignore"):
        moves = np.abs(after - before)
    moved = np.isfinite(moves) & (moves > 0)
    if not moved.any():
        return np.zeros(moves.shape, np.uint8)
    exponents = np.frexp(np.where(moved, moves, 1))[1]
    below = exponents[moved].max() - exponents
    return np.where(moved, np.maximum(CLASSES - 1 - below, 1), 0).astype(np.uint8)
