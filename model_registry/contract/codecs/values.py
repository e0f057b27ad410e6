"""One tensor's values on their own, without a base. The encoder tries every coder that fits and keeps the smallest."""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array, IntegerView, from_ordered, ordered
from model_registry.contract.codecs.numbers import blocks, read_numbers, write_numbers
from model_registry.contract.codecs.sections import Sink, Source, compress, decompress_to
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor, Encoding

ZSTD_LEVEL = 12
PALETTE_SIZE = 256


class ValueCoder(IntEnum):
    """How values are coded. The numbers are part of the format."""

    RAW = 0
    ZSTD = 1
    SYMBOLS = 2
    NUMBERS = 3
    PLANES = 4
    PALETTE = 5


def encode_values(tensor: EncodedTensor) -> tuple[ValueCoder, Sink]:
    """The smallest of the coders that fit the tensor's encoding; ties go to the lower number."""
    candidates = []
    for coder in _coders(tensor.encoding):
        sink = Sink()
        if _write(coder, sink, tensor):
            candidates.append((coder, sink))
    return min(candidates, key=lambda candidate: candidate[1].cost)


def _coders(encoding: Encoding) -> tuple[ValueCoder, ...]:
    match encoding:
        case Encoding.FLOAT32 | Encoding.FLOAT16:
            return ValueCoder.RAW, ValueCoder.ZSTD, ValueCoder.PLANES, ValueCoder.PALETTE
        case Encoding.GRID16:
            return ValueCoder.RAW, ValueCoder.ZSTD, ValueCoder.NUMBERS
        case Encoding.GRID8 | Encoding.CODEBOOK:
            return ValueCoder.RAW, ValueCoder.ZSTD, ValueCoder.SYMBOLS


def _write(coder: ValueCoder, sink: Sink, tensor: EncodedTensor) -> bool:
    """Code the tensor's values; False if this coder cannot."""
    view = IntegerView(tensor.encoding, tensor.scale)
    match coder:
        case ValueCoder.RAW:
            sink.blob += tensor.values.tobytes()
        case ValueCoder.ZSTD:
            frame = compress(tensor.values.tobytes(), level=ZSTD_LEVEL)
            sink.blob += struct.pack("<I", len(frame)) + frame
        case ValueCoder.SYMBOLS:
            sink.symbols.partition(view.integers(tensor.values), view.alphabet or 1)
        case ValueCoder.NUMBERS:
            write_numbers(sink.symbols, zigzag(tensor.values.ravel()))
        case ValueCoder.PLANES:
            for plane in _planes(tensor.values):
                sink.symbols.partition(plane, 256)
        case ValueCoder.PALETTE:
            return _write_palette(sink, tensor.values)
    return True


def decode_values(number: int, view: IntegerView, shape: tuple[int, ...], source: Source) -> Array:
    """Values of ``shape``, whose size the caller has bounded. Raises ArtifactRefused."""
    if number not in list(ValueCoder) or ValueCoder(number) not in _coders(view.encoding):
        raise UnsupportedArtifact(f"unknown coder {number} for {view.encoding.name}", remedy="update this program")
    return _read(ValueCoder(number), view, math.prod(shape), source).reshape(shape)


def _read(coder: ValueCoder, view: IntegerView, size: int, source: Source) -> Array:
    dtype = view.encoding.dtype
    match coder:
        case ValueCoder.RAW:
            return np.frombuffer(source.blob.take(size * dtype.itemsize), dtype)
        case ValueCoder.ZSTD:
            frame = source.blob.take(source.blob.number("I"))
            return np.frombuffer(decompress_to(frame, size=size * dtype.itemsize), dtype)
        case ValueCoder.SYMBOLS:
            return view.values(source.symbols.partition(size, view.alphabet or 1, np.uint8))
        case ValueCoder.NUMBERS:
            values = np.empty(size, dtype)
            for part in blocks(size):
                values[part] = view.values(unzigzag(read_numbers(source.symbols, part.stop - part.start)))
            return values
        case ValueCoder.PLANES:
            return _from_planes([source.symbols.partition(size, 256, np.uint8) for _ in range(dtype.itemsize)], dtype)
        case ValueCoder.PALETTE:
            return _read_palette(source, size, dtype)


def _planes(values: Array) -> list[npt.NDArray[np.uint8]]:
    """Bytes of equal weight together, most significant first, after turning the sign bit to the low end.

    The first plane then is the exponent (float32), or the exponent and three bits of mantissa (float16).
    """
    width = values.dtype.itemsize * 8
    bits = values.ravel().view(f"<u{values.dtype.itemsize}")
    turned = (bits << 1) | (bits >> (width - 1))
    return [(turned >> shift).astype(np.uint8) for shift in range(width - 8, -1, -8)]


def _from_planes(planes: list[npt.NDArray[np.uint8]], dtype: np.dtype[Any]) -> Array:
    width = dtype.itemsize * 8
    turned = np.zeros(planes[0].size, f"<u{dtype.itemsize}")
    for plane in planes:
        turned = (turned << 8) | plane
    bits: Array = (turned >> 1) | (turned << (width - 1))
    return bits.view(dtype)


def _write_palette(sink: Sink, values: Array) -> bool:
    """Few different bit patterns: their number less one, a rising list of them, and an index for each value."""
    palette, indices = np.unique(ordered(values.ravel()), return_inverse=True)
    if not 1 <= palette.size <= PALETTE_SIZE:
        return False
    sink.blob.append(palette.size - 1)
    write_numbers(sink.symbols, np.diff(palette, prepend=0))
    sink.symbols.partition(indices, palette.size)
    return True


def _read_palette(source: Source, size: int, dtype: np.dtype[Any]) -> Array:
    count = source.blob.number("B") + 1
    palette = np.cumsum(read_numbers(source.symbols, count))
    indices: npt.NDArray[np.uint8] = source.symbols.partition(size, count, np.uint8)
    return from_ordered(palette, dtype)[indices]
