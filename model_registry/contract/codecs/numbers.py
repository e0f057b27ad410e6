"""Arrays of non-negative integers below 2^32: a token for the size, coded by context, and the remaining bits as they are.

Numbers below 16 are their own token. Above, token 16 + 4 (L - 5) + m names the bit length L and the two bits m after the
leading one; the other L - 3 bits follow all tokens, grouped by L, in pieces of at most 16 bits, low piece first.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.entropy import MAX_BITS, Integers, SymbolReader, SymbolWriter

DIRECT = 16
MAX_LENGTH = 32
BLOCK = 1 << 20
ALPHABET = DIRECT + 4 * (MAX_LENGTH - 4)


def write_partitioned(writer: SymbolWriter, symbols: Integers, contexts: Integers | None, *, alphabet: int, count: int) -> None:
    """Symbols in one group for each context 0..count-1 that occurs, in that order."""
    for group in _groups(contexts, count):
        writer.partition(symbols[group], alphabet)


def read_partitioned(
    reader: SymbolReader, size: int, contexts: Integers | None, *, alphabet: int, count: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """The inverse of ``write_partitioned``."""
    symbols = np.zeros(size, dtype)
    for group in _groups(contexts, count):
        length = size if isinstance(group, slice) else group.size
        symbols[group] = reader.partition(length, alphabet, dtype)
    return symbols


def _groups(contexts: Integers | None, count: int) -> Iterator[slice | npt.NDArray[np.intp]]:
    """The places of every context that occurs; those below 0 are left out."""
    if contexts is None:
        yield slice(None)
        return
    # A stable sort of 16-bit integers is linear; one search for each context would not be.
    order = np.argsort(contexts.astype(np.int16), kind="stable")
    bounds = np.searchsorted(contexts[order], np.arange(count + 1))
    for start, stop in pairwise(bounds):
        if stop > start:
            yield order[start:stop]


def write_numbers(writer: SymbolWriter, numbers: Integers, contexts: Integers | None = None, count: int = 1) -> None:
    """Append numbers, block by block; ``contexts``, 0 to count-1 for each, must be known to the reader."""
    for part in blocks(numbers.size):
        _write_block(writer, numbers[part].astype(np.int64), None if contexts is None else contexts[part], count)


def read_numbers(reader: SymbolReader, size: int, contexts: Integers | None = None, count: int = 1) -> npt.NDArray[np.int64]:
    """The inverse of ``write_numbers``."""
    numbers = np.empty(size, np.int64)
    for part in blocks(size):
        numbers[part] = _read_block(reader, part.stop - part.start, None if contexts is None else contexts[part], count)
    return numbers


def blocks(size: int) -> Iterator[slice]:
    """Values are coded in blocks, so that contexts and indices of a large tensor do not outweigh it in memory."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def _write_block(writer: SymbolWriter, numbers: npt.NDArray[np.int64], contexts: Integers | None, count: int) -> None:
    lengths = _bit_lengths(numbers)
    long_tokens = DIRECT + 4 * (lengths - 5) + ((numbers >> np.maximum(lengths - 3, 0)) & 3)
    write_partitioned(writer, np.where(numbers < DIRECT, numbers, long_tokens), contexts, alphabet=ALPHABET, count=count)
    for length in _long(lengths):
        group = numbers[lengths == length]
        for shift, width in _pieces(length - 3):
            writer.bits((group >> shift) & ((1 << width) - 1), width)


def _read_block(reader: SymbolReader, size: int, contexts: Integers | None, count: int) -> npt.NDArray[np.int64]:
    tokens = read_partitioned(reader, size, contexts, alphabet=ALPHABET, count=count, dtype=np.int64)
    lengths = (tokens - DIRECT) // 4 + 5
    numbers = np.where(tokens < DIRECT, tokens, (4 + (tokens - DIRECT) % 4) << np.maximum(lengths - 3, 0))
    for length in _long(lengths):
        group = np.flatnonzero(lengths == length)
        for shift, width in _pieces(length - 3):
            numbers[group] |= reader.bits(group.size, width) << shift
    return numbers


def _long(lengths: npt.NDArray[np.int64]) -> list[int]:
    """The bit lengths above those of direct tokens that occur, rising."""
    return [int(length) for length in np.flatnonzero(np.bincount(np.maximum(lengths, 4).ravel(), minlength=1)) if length > 4]


def _pieces(bits: int) -> list[tuple[int, int]]:
    """(shift, width) of the pieces in which ``bits`` low bits are sent."""
    return [(shift, min(MAX_BITS, bits - shift)) for shift in range(0, bits, MAX_BITS)]


def _bit_lengths(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Below 2^53 a float64 holds the integer exactly, so frexp's exponent is the bit length.
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)
