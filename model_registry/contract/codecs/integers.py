"""What the coders see of a tensor: integers that sort as the weights do.

A codebook's index becomes its entry's rank by value, an 8-bit grid value is shifted to 0..255, a 16-bit grid value stays, and a
float becomes the integer of its bits in an order that follows the numbers. All of it is exact and reversible.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.tensors import Encoding

Array = npt.NDArray[Any]
PIECE = 1 << 16


def ordered(values: Array) -> npt.NDArray[np.int64]:
    """The bits of floats as unsigned integers that sort as the numbers do (negative: all bits flipped, else the sign bit)."""
    width = values.dtype.itemsize * 8
    return _turned(values.view(f"<i{values.dtype.itemsize}"), width).astype(np.int64) + (1 << (width - 1))


def from_ordered(integers: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> Array:
    """The inverse of ``ordered``; only the low bits of the integers count."""
    width = dtype.itemsize * 8
    return _turned((integers - (1 << (width - 1))).astype(f"<i{dtype.itemsize}"), width).view(dtype)


def _turned(bits: npt.NDArray[np.signedinteger[Any]], width: int) -> npt.NDArray[np.signedinteger[Any]]:
    """Sign and magnitude to an order and back: of negative numbers all bits but the sign are flipped."""
    mask = bits >> (width - 1)
    mask &= (1 << (width - 1)) - 1
    mask ^= bits
    return mask


def look_up(table: npt.NDArray[np.uint8], places: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """``table[places]`` for at most 256 entries. Indexing would first widen every place to 64 bits.

    Piece by piece, because fresh memory costs more than looking up.
    """
    found, wanted, entries = np.empty(places.size, np.uint8), places.reshape(-1), table.tobytes().ljust(256, b"\0")
    for start in range(0, places.size, PIECE):
        piece = slice(start, start + PIECE)
        found[piece] = np.frombuffer(wanted[piece].tobytes().translate(entries), np.uint8)
    return found.reshape(places.shape)


def _fitting(integers: Array, dtype: np.dtype[Any]) -> Array:
    """The same integers as ``dtype``. Raises MalformedArtifact for those that it does not have."""
    found: Array = integers.astype(dtype)
    if (found != integers).any():
        raise MalformedArtifact("a value is beyond what its tensor can hold")
    return found


def signed(differences: Array, width: int) -> Array:
    """Differences modulo 2^width as numbers from -2^(width-1) to 2^(width-1) - 1."""
    half = 1 << (width - 1)
    return ((differences + half) & ((1 << width) - 1)) - half


@dataclass(frozen=True, eq=False)
class IntegerView:
    """A tensor's values as integers; for a codebook the 1 to 256 entries of ``scale`` give the order."""

    encoding: Encoding
    scale: npt.NDArray[np.float32]

    @property
    def alphabet(self) -> int | None:
        """How many integers there are when they are few enough to be symbols."""
        match self.encoding:
            case Encoding.CODEBOOK:
                return int(self.scale.size)
            case Encoding.GRID8:
                return 256
            case _:
                return None

    @property
    def is_integer(self) -> bool:
        """A grid or a codebook, no floats."""
        return self.encoding not in (Encoding.FLOAT32, Encoding.FLOAT16)

    @property
    def width(self) -> int:
        """Bits of the values' type."""
        return self.encoding.dtype.itemsize * 8

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        """A type for the integers; where they are no symbols, for sums of two as well. Large arrays cost by their bytes."""
        if self.alphabet is not None:
            return np.dtype(np.uint8)
        return np.dtype(np.int64 if self.encoding is Encoding.FLOAT32 else np.int32)

    @cached_property
    def zero(self) -> int:
        """The integer of the weight 0; -1 when a codebook has no such entry."""
        match self.encoding:
            case Encoding.CODEBOOK:
                entries = np.flatnonzero(self.scale[self.entries] == 0)
                return int(entries[0]) if entries.size else -1
            case Encoding.GRID8:
                return 128
            case Encoding.GRID16:
                return 0
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return 1 << (self.width - 1)

    @cached_property
    def entries(self) -> npt.NDArray[np.uint8]:
        """The codebook's entry of every rank; equal entries keep their order."""
        return np.argsort(ordered(self.scale.astype("<f4")), kind="stable").astype(np.uint8)

    @cached_property
    def _ranks(self) -> npt.NDArray[np.uint8]:
        ranks = np.empty_like(self.entries)
        ranks[self.entries] = np.arange(self.entries.size, dtype=np.uint8)
        return ranks

    def integers(self, values: Array) -> Array:
        """Symbols as uint8 where there is an alphabet, otherwise int64."""
        match self.encoding:
            case Encoding.CODEBOOK:
                return look_up(self._ranks, values)
            case Encoding.GRID8:
                return np.bitwise_xor(values.view(np.uint8), np.uint8(128))
            case Encoding.GRID16:
                return values.astype(np.int64)
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return ordered(values)

    def exponents(self, integers: Array) -> Array:
        """The exponent fields of floats given as ordered integers."""
        sign = 1 << (self.width - 1)
        magnitudes = np.where(integers & sign, integers ^ sign, sign - 1 - integers)
        return magnitudes >> (23 if self.encoding is Encoding.FLOAT32 else 10)

    def values(self, integers: Array) -> Array:
        """The inverse of ``integers``. Raises MalformedArtifact where a grid of 16 bits does not reach."""
        match self.encoding:
            case Encoding.CODEBOOK:
                return look_up(self.entries, integers.astype(np.uint8, copy=False))
            case Encoding.GRID8:
                return np.bitwise_xor(integers.astype(np.uint8), np.uint8(128)).view(np.int8)
            case Encoding.GRID16:
                return _fitting(integers, self.encoding.dtype)
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                return from_ordered(integers, self.encoding.dtype)
