"""One weight tensor as a version's content holds it: values kept as floats, or integers with their grid or codebook.

Training moves most weights of a row one way and by about the same distance, which is far less than a step. So a tensor of
integers may have *offsets*: for each row a *shift*, which is added to all weights that are not zero, and maybe a *stretch*, by
which they move away from zero as well. Most of an update then takes a number or two a row, and what is zero stays zero.

Integers are what the coders see and what a delta is made of; floats appear only when a tensor is handed to an engine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import MalformedArtifact


class Encoding(IntEnum):
    """How ``values`` are to be read. The numbers are part of the content format."""

    FLOAT32 = 0
    FLOAT16 = 1
    GRID8 = 2
    GRID16 = 3
    CODEBOOK = 4

    @property
    def label(self) -> str:
        """The name that ``inspect`` prints."""
        return "grid" if self in (Encoding.GRID8, Encoding.GRID16) else self.name.lower()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian type of the stored values."""
        return np.dtype({0: "<f4", 1: "<f2", 2: "i1", 3: "<i2", 4: "u1"}[int(self)])


NO_SCALE: npt.NDArray[np.float32] = np.zeros(0, np.float32)
NO_OFFSETS: npt.NDArray[np.float32] = np.zeros((0, 0), np.float32)
MAX_OFFSETS = 2


@dataclass(frozen=True, slots=True, eq=False)
class EncodedTensor:
    """A named tensor of ``shape`` (C order).

    ``values`` has ``shape`` and the encoding's type. ``scale`` is float32 and one-dimensional: for a grid the step, one for the
    tensor or one for each index of axis 0; for a codebook its 1 to 256 entries; empty for floats. ``offsets`` (float32) are
    none, or a shift, or a shift and a stretch, for each index of axis 0: (1 or 2, rows).
    Raises MalformedArtifact when these do not fit together.
    """

    name: str
    encoding: Encoding
    values: npt.NDArray[Any]
    scale: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] = field(default_factory=lambda: NO_OFFSETS)

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise MalformedArtifact(f"tensor {self.name!r}: {problem}")

    def _problem(self) -> str:
        if not 0 < len(self.name.encode()) <= 256:
            return "its name is not 1 to 256 bytes"
        if self.values.ndim > 8:
            return "it has more than 8 dimensions"
        if self.values.dtype != self.encoding.dtype:
            return f"values are {self.values.dtype}, {self.encoding.name} wants {self.encoding.dtype}"
        if self.scale.dtype != np.float32 or self.scale.ndim != 1:
            return "the scale is not a row of float32"
        if self.offsets.dtype != np.float32 or self.offsets.ndim != 2:
            return "the offsets are not rows of float32"
        rows = rows_of(self.shape)
        if len(self.offsets) and (len(self.offsets) > MAX_OFFSETS or not rows or self.offsets.shape[1] != rows):
            return f"offsets of shape {self.offsets.shape} for {rows} rows"
        match self.encoding:
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return "floats take no scale and no offsets" if self.scale.size or len(self.offsets) else ""
            case Encoding.GRID8 | Encoding.GRID16:
                return "" if self.scale.size in (1, max(rows, 1)) else f"{self.scale.size} steps for {rows} rows"
            case Encoding.CODEBOOK:
                if not 1 <= self.scale.size <= 256:
                    return "a codebook has 1 to 256 entries"
                beyond = self.values.size and int(self.values.max()) >= self.scale.size
                return "an index points beyond the codebook" if beyond else ""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def dequantize(self) -> npt.NDArray[np.float32]:
        """The weights as an engine uses them: float32 operations in one order, so the same bits on every machine."""
        weights = self.without_offsets()
        if not len(self.offsets):
            return weights
        # In place: a large tensor is not held several times over.
        above_zero, below_zero = weights > 0, weights < 0
        above, below = self.added
        np.add(weights, above, out=weights, where=above_zero)
        np.add(weights, below, out=weights, where=below_zero)
        return weights

    @property
    def added(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """What the offsets, of which there are some, add to weights above zero and below it; for each row."""
        shift, *stretch = self.offsets.reshape(-1, *self.shape[:1], *[1] * (self.values.ndim - 1))
        return (shift + stretch[0], shift - stretch[0]) if stretch else (shift, shift)

    def without_offsets(self) -> npt.NDArray[np.float32]:
        """The weights as their integers alone tell them."""
        match self.encoding:
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return self.values.astype(np.float32)
            case Encoding.CODEBOOK:
                return np.asarray(self.scale[self.values], dtype=np.float32)
            case Encoding.GRID8 | Encoding.GRID16:
                return np.asarray(self.values.astype(np.float32) * self.steps, dtype=np.float32)

    @property
    def steps(self) -> npt.NDArray[np.float32] | np.float32:
        """Of a grid: its step, or one for each index of axis 0, in a shape that goes with the values'."""
        if self.scale.size == 1:
            return np.float32(self.scale[0])
        return self.scale.reshape(-1, *[1] * max(self.values.ndim - 1, 0))

    def same_as(self, other: EncodedTensor) -> bool:
        """Bit-for-bit equality, NaN payloads and signed zeros included."""
        return (
            self.name == other.name
            and self.encoding == other.encoding
            and self.shape == other.shape
            and self.scale.tobytes() == other.scale.tobytes()
            and self.offsets.tobytes() == other.offsets.tobytes()
            and self.values.tobytes() == other.values.tobytes()
        )


def rows_of(shape: tuple[int, ...]) -> int:
    """How many indices axis 0 has; 1 for a scalar."""
    return shape[0] if shape else 1


def float32_tensor(name: str, values: npt.NDArray[np.float32]) -> EncodedTensor:
    """Keep a tensor bit for bit."""
    return EncodedTensor(name, Encoding.FLOAT32, np.asarray(values, "<f4", order="C"), NO_SCALE)
