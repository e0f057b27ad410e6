"""Arrays of non-negative integers below 2^32: a token for the size, coded by context, and the remaining bits as they are.

Numbers below 16 are their own token. Above, token 16 + 4 (L - 5) + m names the bit length L and the two bits m after the
leading one; the other L - 3 bits follow all tokens, grouped by L, in pieces of at most 16 bits, low piece first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.entropy import MAX_BITS, Integers, SymbolReader, SymbolWriter

DIRECT = 16
MAX_LENGTH = 32
ALPHABET = DIRECT + 4 * (MAX_LENGTH - 4)


def write_partitioned(writer: SymbolWriter, symbols: Integers, contexts: Integers | None, *, alphabet: int, count: int) -> None:
    """Symbols in one group for each context 0..count-1 that occurs, in that order."""
    for group in _groups(symbols.size, contexts, count):
        writer.partition(symbols.ravel()[group], alphabet)


def read_partitioned(
    reader: SymbolReader, size: int, contexts: Integers | None, *, alphabet: int, count: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """The inverse of ``write_partitioned``."""
    symbols = np.zeros(size, dtype)
    for group in _groups(size, contexts, count):
        length = size if isinstance(group, slice) else group.size
        symbols[group] = reader.partition(length, alphabet, dtype)
    return symbols


def _groups(size: int, contexts: Integers | None, count: int) -> list[slice | npt.NDArray[np.intp]]:
    if not size:
        return []
    if contexts is None:
        return [slice(None)]
    flat = contexts.ravel()
    places = (np.flatnonzero(flat == context) for context in range(count))
    return [group for group in places if group.size]


def write_numbers(writer: SymbolWriter, numbers: Integers, contexts: Integers | None = None, count: int = 1) -> None:
    """Append numbers; ``contexts``, 0 to count-1 for each, must be known to the reader."""
    flat = numbers.ravel().astype(np.int64)
    lengths = _bit_lengths(flat)
    tokens = np.where(flat < DIRECT, flat, DIRECT + 4 * (lengths - 5) + ((flat >> np.maximum(lengths - 3, 0)) & 3))
    write_partitioned(writer, tokens, contexts, alphabet=ALPHABET, count=count)
    for length in range(5, MAX_LENGTH + 1):
        group = flat[lengths == length]
        for shift, width in _pieces(length - 3) if group.size else ():
            writer.bits((group >> shift) & ((1 << width) - 1), width)


def read_numbers(reader: SymbolReader, size: int, contexts: Integers | None = None, count: int = 1) -> npt.NDArray[np.int64]:
    """The inverse of ``write_numbers``."""
    tokens = read_partitioned(reader, size, contexts, alphabet=ALPHABET, count=count, dtype=np.int64)
    lengths = (tokens - DIRECT) // 4 + 5
    numbers = np.where(tokens < DIRECT, tokens, (4 + (tokens - DIRECT) % 4) << np.maximum(lengths - 3, 0))
    for length in range(5, MAX_LENGTH + 1):
        group = np.flatnonzero(lengths == length)
        for shift, width in _pieces(length - 3) if group.size else ():
            numbers[group] |= reader.bits(group.size, width) << shift
    return numbers


def _pieces(bits: int) -> list[tuple[int, int]]:
    """(shift, width) of the pieces in which ``bits`` low bits are sent."""
    return [(shift, min(MAX_BITS, bits - shift)) for shift in range(0, bits, MAX_BITS)]


def _bit_lengths(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    # Below 2^53 a float64 holds the integer exactly, so frexp's exponent is the bit length.
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)
