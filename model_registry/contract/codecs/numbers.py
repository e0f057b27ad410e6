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

Numbers = npt.NDArray[np.signedinteger[Any]]

DIRECT = 16
MAX_LENGTH = 32
# Up to so many contexts are searched for one by one; sorting takes as long as some searches.
FEW_CONTEXTS = 5
BLOCK = 1 << 20
ALPHABET = DIRECT + 4 * (MAX_LENGTH - 4)


def write_partitioned(writer: SymbolWriter, symbols: Integers, contexts: Integers | None, *, alphabet: int, count: int) -> None:
    """Symbols in one group for each context 0..count-1 that occurs, in that order; those from count on are left out."""
    if contexts is None:
        writer.partition(symbols, alphabet)
        return
    order, sizes = grouped(contexts, count)
    for group in np.split(symbols[order], np.cumsum(sizes)[:-1]):
        writer.partition(group, alphabet)


def read_partitioned(
    reader: SymbolReader, size: int, contexts: Integers | None, *, alphabet: int, count: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """The inverse of ``write_partitioned``."""
    if contexts is None:
        return reader.partition(size, alphabet, dtype)
    order, sizes = grouped(contexts, count)
    symbols = np.zeros(size, dtype)
    if sizes:
        symbols[order] = np.concatenate([reader.partition(length, alphabet, dtype) for length in sizes])
    return symbols


def context_type(count: int) -> type[np.unsignedinteger[Any]]:
    """A type for contexts 0..count-1 and one that is none of them; it has to be narrow for sorting to be quick."""
    return np.uint8 if count < 256 else np.uint16


def grouped(contexts: Integers, count: int) -> tuple[npt.NDArray[np.intp], list[int]]:
    """The places of all contexts 0..count-1, one context after the other, and how many places each that occurs has."""
    if count <= FEW_CONTEXTS:
        groups = [np.flatnonzero(contexts == context) for context in range(count)]
        return np.concatenate(groups), [group.size for group in groups if group.size]
    small = contexts.astype(context_type(count), copy=False)
    coded = small < count
    active = np.flatnonzero(coded) if 2 * np.count_nonzero(coded) < small.size else None
    picked = small if active is None else small[active]
    order = np.argsort(picked, kind="stable")
    bounds = np.searchsorted(picked, np.arange(count + 1).astype(small.dtype), sorter=order)
    order = order[: bounds[-1]] if active is None else active[order]
    return order, [places for places in np.diff(bounds).tolist() if places]


def write_numbers(writer: SymbolWriter, numbers: Integers, contexts: Integers | None = None, count: int = 1) -> None:
    """Append numbers, block by block; ``contexts``, 0 to count-1 for each, must be known to the reader."""
    for part in blocks(numbers.size):
        _write_block(writer, numbers[part].astype(np.int64), None if contexts is None else contexts[part], count)


def read_numbers(reader: SymbolReader, size: int, contexts: Integers | None = None, count: int = 1) -> Numbers:
    """The inverse of ``write_numbers``."""
    if size <= BLOCK:
        return _read_block(reader, size, contexts, count)
    read = [_read_block(reader, p.stop - p.start, None if contexts is None else contexts[p], count) for p in blocks(size)]
    return np.concatenate(read)


def blocks(size: int) -> Iterator[slice]:
    """Values are coded in blocks, so that contexts and indices of a large tensor do not outweigh it in memory."""
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))


def _write_block(writer: SymbolWriter, numbers: npt.NDArray[np.int64], contexts: Integers | None, count: int) -> None:
    tokens, widths = tokens_of(numbers)
    write_partitioned(writer, tokens, contexts, alphabet=ALPHABET, count=count)
    write_remainders(writer, numbers, widths)


def _read_block(reader: SymbolReader, size: int, contexts: Integers | None, count: int) -> Numbers:
    tokens = read_partitioned(reader, size, contexts, alphabet=ALPHABET, count=count, dtype=np.uint8)
    numbers, long, widths = numbers_of(tokens)
    if long.size:
        numbers[long] |= read_remainders(reader, widths).astype(numbers.dtype, copy=False)
    return numbers


def tokens_of(numbers: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The token of every number, and how many of its low bits the token leaves open."""
    lengths = bit_lengths(numbers)
    widths = np.where(numbers < DIRECT, 0, np.maximum(lengths - 3, 0))
    return np.where(numbers < DIRECT, numbers, DIRECT + 4 * (lengths - 5) + ((numbers >> widths) & 3)), widths


def numbers_of(tokens: npt.NDArray[np.uint8]) -> tuple[Numbers, npt.NDArray[np.intp], npt.NDArray[np.int64]]:
    """Numbers with their open bits 0, which of them have open bits, and how many each of these."""
    long = np.flatnonzero(tokens >= DIRECT)
    found = tokens[long].astype(np.int64)
    widths = (found >> 2) - 2
    numbers: Numbers = tokens.astype(_type_for(int(widths.max(initial=0))))
    numbers[long] = (4 + (found & 3)) << widths
    return numbers, long, widths


def _type_for(width: int) -> type[np.signedinteger[Any]]:
    """A type for numbers with up to ``width`` open bits that leaves room to add two of them."""
    return np.int16 if width <= 11 else np.int32 if width <= 27 else np.int64


def write_remainders(writer: SymbolWriter, numbers: Integers, widths: Integers) -> None:
    """The low bits of numbers, 0 to 32 of each as ``widths`` says, which the reader must know; narrow ones first."""
    for width, group in _by_width(widths):
        for shift, piece in _pieces(width):
            writer.bits((numbers[group] >> shift) & ((1 << piece) - 1), piece)


def read_remainders(reader: SymbolReader, widths: Integers) -> npt.NDArray[np.int64]:
    """The inverse of ``write_remainders``."""
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
