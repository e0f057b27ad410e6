"""Numbers of known widths, bit behind bit: low bits that no table could shorten, much faster than through the symbol stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.content import ByteReader
from model_registry.contract.errors import MalformedArtifact

Integers = npt.NDArray[np.integer[Any]]

WORD_BYTES = 8


def pack(numbers: Integers, widths: Integers) -> bytes:
    """The low ``widths`` bits (0 to 32) of every number, low bits first; the last byte is filled up with zeros."""
    values, ends = numbers.astype(np.uint64), np.cumsum(widths)
    total = int(ends[-1]) if ends.size else 0
    places = np.arange(total) - np.repeat(ends - widths, widths)
    bits = (np.repeat(values, widths) >> places.astype(np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def unpack(reader: ByteReader, widths: Integers) -> npt.NDArray[np.int64]:
    """The inverse of ``pack``; takes exactly the bytes that ``widths`` add up to. Raises MalformedArtifact."""
    ends = np.cumsum(widths, dtype=np.int64)
    total = int(ends[-1]) if ends.size else 0
    data = reader.take(-(-total // 8)) + bytes(WORD_BYTES)
    if total % 8 and data[total // 8] >> total % 8:
        raise MalformedArtifact("packed numbers are filled up with something else than zeros")
    # Every place of the data as a 64-bit word: a number starts in the first byte of its word and is at most 39 bits away.
    words = np.ndarray(len(data) - WORD_BYTES + 1, "<u8", data, strides=(1,))
    starts = ends - widths
    found = words[starts >> 3] >> (starts & 7).astype(np.uint64)
    masks = (np.uint64(1) << widths.astype(np.uint64)) - np.uint64(1)
    numbers: npt.NDArray[np.int64] = (found & masks).astype(np.int64)
    return numbers
