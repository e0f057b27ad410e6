"""Which way the rows of a tensor go: training moves most weights of a row in one direction, so that its output gets larger or
smaller.

That is told once for each row that changes. A row that mostly goes down tells its steps in a mirror, so that the way which most
weights go costs little in all rows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array
from model_registry.contract.codecs.numbers import blocks
from model_registry.contract.codecs.prediction import Prediction
from model_registry.contract.codecs.steps import Signs
from model_registry.contract.entropy import SymbolReader, SymbolWriter

Flags = npt.NDArray[np.bool_]


class Directions:
    """Of a tensor of ``shape``, which has values and at least one axis; all up until they are written or read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._down = np.zeros(shape[0], np.bool_)
        self._row_size = math.prod(shape[1:])

    def write(self, writer: SymbolWriter, changing: Flags, prediction: Prediction, values: Array) -> None:
        """Measure and send those of the rows that are ``changing``, given flat ``values``."""
        balance = np.zeros(self._down.size)
        for part in blocks(values.size):
            steps = prediction.new.integers(values[part]).astype(np.int64) - prediction.integers(part)
            rows = np.arange(part.start, part.stop) // self._row_size
            balance += np.bincount(rows, np.sign(steps), self._down.size)
        self._down = balance < 0
        writer.partition(self._down[changing].astype(np.int64), 2)

    def read(self, reader: SymbolReader, changing: Flags) -> None:
        self._down[changing] = reader.partition(int(np.count_nonzero(changing)), 2, np.bool_)

    def at(self, places: npt.NDArray[np.int64]) -> Signs:
        """1 for up and -1 for down, for each of the flat ``places``."""
        return np.asarray(1 - 2 * self._down[places // self._row_size].view(np.int8))
