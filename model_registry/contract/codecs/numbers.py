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
FEW_CONTEXTS = 17
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
    small = (contexts + 1).astype(np.uint8 if count < 256 else np.uint16, copy=False)
    if count <= FEW_CONTEXTS:
        places = (np.flatnonzero(small == context) for context in range(1, count + 1))
        yield from (group for group in places if group.size)
        return
    sizes = np.bincount(small, minlength=count + 1)
    occurring = np.flatnonzero(sizes[1:]) + 1
    if occurring.size <= FEW_CONTEXTS:
        yield from (np.flatnonzero(small == context) for context in occurring)
        return
    # Sorting small integers takes as long as some searches.
    order, bounds = np.argsort(small, kind="stable"), np.cumsum(sizes)
    yield from (order[bounds[context - 1] : bounds[context]] for context in occurring)


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
    tokens, widths = tokens_of(numbers)
    write_partitioned(writer, tokens, contexts, alphabet=ALPHABET, count=count)
    _write_remainders(writer, numbers, widths)


def _read_block(reader: SymbolReader, size: int, contexts: Integers | None, count: int) -> npt.NDArray[np.int64]:
    tokens = read_partitioned(reader, size, contexts, alphabet=ALPHABET, count=count, dtype=np.int64)
    numbers, long, widths = numbers_of(tokens)
    numbers[long] |= _read_remainders(reader, widths)
    return numbers


def tokens_of(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The token of every number, and how many of its low bits the token leaves open."""
    lengths = bit_lengths(numbers)
    widths = np.where(numbers < DIRECT, 0, np.maximum(lengths - 3, 0))
    return np.where(numbers < DIRECT, numbers, DIRECT + 4 * (lengths - 5) + ((numbers >> widths) & 3)), widths


def numbers_of(tokens: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Numbers with their open bits 0 (in place of the tokens), which of them have open bits, and how many each of these."""
    long = np.flatnonzero(tokens >= DIRECT)
    found = tokens[long]
    widths = (found >> 2) - 2
    tokens[long] = (4 + (found & 3)) << widths
    return tokens, long, widths


def _write_remainders(writer: SymbolWriter, numbers: Integers, widths: Integers) -> None:
    """The low bits of numbers, 0 to 32 of each as ``widths`` says, which the reader must know; narrow ones first."""
    for width, group in _by_width(widths):
        for shift, piece in _pieces(width):
            writer.bits((numbers[group] >> shift) & ((1 << piece) - 1), piece)


def _read_remainders(reader: SymbolReader, widths: Integers) -> npt.NDArray[np.int64]:
    """The inverse of ``_write_remainders``."""
    numbers = np.zeros(widths.size, np.int64)
    for width, group in _by_width(widths):
        low = np.zeros(group.size, np.int64)
        for shift, piece in _pieces(width):
            low |= reader.bits(group.size, piece) << shift
        numbers[group] = low
    return numbers


def _by_width(widths: Integers) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """The places of every width above 0 that occurs, rising."""
    order = np.argsort(widths.astype(np.uint8), kind="stable")
    stops = np.cumsum(np.bincount(widths, minlength=1))
    for width, (start, stop) in enumerate(pairwise(stops), 1):
        if stop > start:
            yield width, order[start:stop]


def _pieces(bits: int) -> list[tuple[int, int]]:
    """(shift, width) of the pieces in which ``bits`` low bits are sent."""
    return [(shift, min(MAX_BITS, bits - shift)) for shift in range(0, bits, MAX_BITS)]


def bit_lengths(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many bits each number has, 0 for 0."""
    # Below 2^53 a float64 holds the integer exactly, so frexp's exponent is the bit length.
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)
