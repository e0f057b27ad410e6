"""One tensor's values and scale, on their own (without a base). The encoder tries every coder and keeps the smallest.

The coder numbers are part of the format; a reader refuses those it does not know.
"""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.numbers import read_numbers, read_partitioned, write_numbers, write_partitioned
from model_registry.contract.codecs.sections import Sink, Source, compress, decompress
from model_registry.contract.entropy import Integers, unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor, Encoding

ZSTD_LEVEL = 12
PALETTE_SIZE = 256

Array = npt.NDArray[Any]


class ScaleCoder(IntEnum):
    """How a scale is coded: differences of, or plain, ordered integers of float16 (when that is exact) or float32."""

    FLOAT16_STEPS = 0
    FLOAT32_STEPS = 1
    FLOAT16_PLAIN = 2
    FLOAT32_PLAIN = 3


class ValueCoder(IntEnum):
    """How values are coded."""

    RAW = 0
    ZSTD = 1
    SYMBOLS = 2
    NUMBERS = 3
    PLANES = 4
    PALETTE = 5


def ordered(values: Array) -> npt.NDArray[np.int64]:
    """The bits of floats as unsigned integers that sort as the numbers do (negative: all bits flipped, else the sign bit)."""
    width = values.dtype.itemsize * 8
    bits = values.view(f"<u{values.dtype.itemsize}").astype(np.int64)
    sign = 1 << (width - 1)
    return np.where(bits & sign, (1 << width) - 1 - bits, bits | sign)


def from_ordered(integers: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> Array:
    """The inverse of ``ordered``."""
    width = dtype.itemsize * 8
    sign = 1 << (width - 1)
    bits = np.where(integers & sign, integers ^ sign, (1 << width) - 1 - integers)
    return bits.astype(f"<u{dtype.itemsize}").view(dtype)


def signed(differences: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """Differences modulo 2^width as numbers from -2^(width-1) to 2^(width-1) - 1."""
    half = 1 << (width - 1)
    return ((differences + half) & ((1 << width) - 1)) - half


def ranks(scale: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A codebook's order: the rank of every entry by value, and the entry of every rank. Equal entries keep their order."""
    entries = np.argsort(ordered(scale.astype("<f4")), kind="stable").astype(np.uint8)
    rank = np.empty_like(entries)
    rank[entries] = np.arange(entries.size, dtype=np.uint8)
    return rank, entries


_HALVES = (ScaleCoder.FLOAT16_STEPS, ScaleCoder.FLOAT16_PLAIN)
_SINGLES = (ScaleCoder.FLOAT32_STEPS, ScaleCoder.FLOAT32_PLAIN)
_STEPS = (ScaleCoder.FLOAT16_STEPS, ScaleCoder.FLOAT32_STEPS)


def encode_scale(scale: npt.NDArray[np.float32]) -> tuple[ScaleCoder, Sink]:
    """The smallest coder for a scale; float16 ones only when every entry survives them bit for bit."""
    with np.errstate(over="ignore"):
        halves = scale.astype("<f2")
    exact = halves.astype("<f4").tobytes() == scale.astype("<f4").tobytes()
    candidates = []
    for coder in _HALVES if exact else _SINGLES:
        sink = Sink()
        _write_floats(sink, halves if exact else scale.astype("<f4"), steps=coder in _STEPS)
        candidates.append((coder, sink))
    return min(candidates, key=lambda candidate: candidate[1].cost)


def decode_scale(code: int, size: int, source: Source) -> npt.NDArray[np.float32]:
    """The inverse of ``encode_scale``. Raises ArtifactRefused."""
    if code not in list(ScaleCoder):
        raise UnsupportedArtifact(f"unknown scale coder {code}", remedy="update this program")
    dtype = np.dtype("<f2" if code in _HALVES else "<f4")
    return _read_floats(source, size, dtype, steps=code in _STEPS).astype(np.float32)


def _write_floats(sink: Sink, values: Array, *, steps: bool) -> None:
    """Floats as ordered integers: differences from one to the next (the first from 0), or their plain bytes."""
    if not steps:
        sink.blob += values.tobytes()
    elif values.size:
        width = values.dtype.itemsize * 8
        write_numbers(sink.symbols, zigzag(signed(np.diff(ordered(values), prepend=0), width)))


def _read_floats(source: Source, size: int, dtype: np.dtype[Any], *, steps: bool) -> Array:
    if not steps:
        return np.frombuffer(source.blob.take(size * dtype.itemsize), dtype)
    integers = np.cumsum(unzigzag(read_numbers(source.symbols, size))) & ((1 << dtype.itemsize * 8) - 1)
    return from_ordered(integers, dtype)


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
    match coder:
        case ValueCoder.RAW:
            sink.blob += tensor.values.tobytes()
        case ValueCoder.ZSTD:
            frame = compress(tensor.values.tobytes(), level=ZSTD_LEVEL)
            sink.blob += struct.pack("<I", len(frame)) + frame
        case ValueCoder.SYMBOLS:
            symbols, alphabet = to_symbols(tensor.values, tensor.scale, tensor.encoding)
            write_partitioned(sink.symbols, symbols, None, alphabet=alphabet, count=1)
        case ValueCoder.NUMBERS:
            write_numbers(sink.symbols, zigzag(tensor.values))
        case ValueCoder.PLANES:
            for plane in _planes(tensor.values):
                write_partitioned(sink.symbols, plane, None, alphabet=256, count=1)
        case ValueCoder.PALETTE:
            return _write_palette(sink, tensor.values)
    return True


def decode_values(
    code: int, encoding: Encoding, shape: tuple[int, ...], scale: npt.NDArray[np.float32], source: Source
) -> Array:
    """Values of ``shape``, whose size the caller has bounded. Raises ArtifactRefused."""
    if code not in list(ValueCoder) or ValueCoder(code) not in _coders(encoding):
        raise UnsupportedArtifact(f"unknown coder {code} for {encoding.name}", remedy="update this program")
    if encoding is Encoding.CODEBOOK and not 1 <= scale.size <= PALETTE_SIZE:
        raise MalformedArtifact("a codebook has 1 to 256 entries")
    return _read(ValueCoder(code), encoding, math.prod(shape), scale, source).reshape(shape)


def _read(coder: ValueCoder, encoding: Encoding, size: int, scale: npt.NDArray[np.float32], source: Source) -> Array:
    dtype = encoding.dtype
    match coder:
        case ValueCoder.RAW:
            return np.frombuffer(source.blob.take(size * dtype.itemsize), dtype)
        case ValueCoder.ZSTD:
            length = source.blob.number("I")
            data = decompress(source.blob.take(length), max_bytes=size * dtype.itemsize)
            if len(data) != size * dtype.itemsize:
                raise MalformedArtifact("a compressed tensor has the wrong length")
            return np.frombuffer(data, dtype)
        case ValueCoder.SYMBOLS:
            alphabet = scale.size if encoding is Encoding.CODEBOOK else 256
            symbols = read_partitioned(source.symbols, size, None, alphabet=alphabet, count=1, dtype=np.uint8)
            return from_symbols(symbols, scale, encoding)
        case ValueCoder.NUMBERS:
            return unzigzag(read_numbers(source.symbols, size)).astype(dtype)
        case ValueCoder.PLANES:
            planes = [
                read_partitioned(source.symbols, size, None, alphabet=256, count=1, dtype=np.uint8)
                for _ in range(dtype.itemsize)
            ]
            return _from_planes(planes, dtype)
        case ValueCoder.PALETTE:
            return _read_palette(source, size, dtype)


def to_symbols(values: Array, scale: npt.NDArray[np.float32], encoding: Encoding) -> tuple[Integers, int]:
    """8-bit integers as symbols in order of the weights they stand for, and how many symbols there are."""
    if encoding is Encoding.CODEBOOK:
        return ranks(scale)[0][values], scale.size
    return values.view(np.uint8) ^ np.uint8(128), 256


def from_symbols(symbols: npt.NDArray[np.uint8], scale: npt.NDArray[np.float32], encoding: Encoding) -> Array:
    """The inverse of ``to_symbols``."""
    if encoding is Encoding.CODEBOOK:
        return ranks(scale)[1][symbols]
    return (symbols ^ np.uint8(128)).view(np.int8)


def _planes(values: Array) -> list[npt.NDArray[np.uint8]]:
    """Bytes of equal weight together, most significant first, after turning the sign bit to the low end.

    The first plane then is the exponent (float32), or exponent and three bits of mantissa (float16).
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
    """Few different bit patterns: a sorted list of them and an index for each value."""
    integers = ordered(values.ravel())
    palette, indices = np.unique(integers, return_inverse=True)
    if not 1 <= palette.size <= PALETTE_SIZE:
        return False
    sink.blob.append(palette.size - 1)
    write_numbers(sink.symbols, np.diff(palette, prepend=0))
    write_partitioned(sink.symbols, indices, None, alphabet=palette.size, count=1)
    return True


def _read_palette(source: Source, size: int, dtype: np.dtype[Any]) -> Array:
    count = source.blob.number("B") + 1
    palette = np.cumsum(read_numbers(source.symbols, count)) & ((1 << dtype.itemsize * 8) - 1)
    indices = read_partitioned(source.symbols, size, None, alphabet=count, count=1, dtype=np.uint8)
    return from_ordered(palette, dtype)[indices]
