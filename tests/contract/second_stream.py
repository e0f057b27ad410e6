"""What the second decoder reads with: bytes, the symbol stream, numbers and floats as bits (docs/container-format.md alone)."""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache

RATIOS = (1, 16, 38, 53)
BLOCK = 1 << 20


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0])

    def block(self) -> bytes:
        return self.take(self.number("I"))

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def short(self) -> bytes:
        """A block with a length of seven bits a byte."""
        size = shift = 0
        while True:
            byte = self.number("B")
            size += byte % 128 << shift
            shift += 7
            if byte < 128:
                return self.take(size)


@cache
def law(alphabet: int, number: int) -> list[int]:
    """The bounds of a law's symbols."""
    ratio = (64540, 63703, 62183, 59462, 54735, 46952, 35342, 20886, 7886, 1299)[number // 3]
    falling, weight = [], 2**40
    for _ in range(2049):
        falling.append(weight // 2**24)
        weight = weight * ratio // 2**16
    weights, zero = [0] * alphabet, 128 if alphabet == 256 else 0
    for value in range(256 if alphabet == 256 else 4096):
        if alphabet == 256:
            weights[value] = falling[abs(value - 128)]
        else:
            length = value.bit_length()
            token = value if value < 16 else 16 + 4 * (length - 5) + (value >> (length - 3)) % 4
            weights[token] += falling[(value + 1) // 2]
    weights[zero] = weights[zero] * (2, 5, 20)[number % 3] // 5
    return frequencies([max(w, sum(weights) // 2**19) for w in weights])


class Symbols:
    """The symbol stream; ``laws``: whether tables of numbers and grids begin with the laws."""

    def __init__(self, data: bytes, *, laws: bool) -> None:
        self.laws = laws
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        self.state = 0
        self.tables: dict[int, list[list[int]]] = {}
        while self.state < 2**32 and self.words:
            self._refill()

    def _refill(self) -> None:
        self.state = self.state * 2**32 + self.words.pop()

    def _symbol(self, bounds: list[int]) -> int:
        place = self.state % 2**24
        symbol = bisect_right(bounds, place) - 1
        begin, frequency = bounds[symbol], bounds[symbol + 1] - bounds[symbol]
        self.state = self.state // 2**24 * frequency + place - begin
        if self.state < 2**32 and self.words:
            self._refill()
        return symbol

    def bits(self, width: int, count: int) -> list[int]:
        bounds = [i << (24 - width) for i in range(2**width + 1)]
        return [self._symbol(bounds) if width else 0 for _ in range(count)]

    def partition(self, count: int, alphabet: int) -> list[int]:
        if count == 0 or alphabet < 2:
            return [0] * count
        if alphabet not in self.tables:
            lawful = self.laws and alphabet in (128, 256)
            self.tables[alphabet] = [law(alphabet, i) for i in range(30)] if lawful else []
        known = self.tables[alphabet]
        number = self.bits(len(known).bit_length(), 1)[0]
        if number == len(known):
            known.append(self._table(alphabet))
        return [self._symbol(known[number]) for _ in range(count)]

    def _table(self, alphabet: int) -> list[int]:
        m, r = divmod(self.bits(4, 1)[0], 4)
        s = 2**m
        prior, p = [], 2**20
        for _ in range(2 * s * (25 - m)):
            prior.append(max(64, p))
            p = p * RATIOS[r] // 64
        bounds, token, weights = frequencies(prior), 0, []
        for _ in range(alphabet):
            token += unzigzag(self._symbol(bounds))
            weights.append(token if token < s else (s + (token - s) % s) * 2 ** ((token - s) // s))
        return frequencies(weights)

    def numbers(self, count: int, contexts: list[int] | None = None) -> list[int]:
        result = []
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            result += self._numbers_block(size, contexts[start : start + size] if contexts else None)
        return result

    def _numbers_block(self, count: int, contexts: list[int] | None) -> list[int]:
        tokens = self.grouped(count, contexts, 128)
        result = [t if t < 16 else 4 + (t - 16) % 4 for t in tokens]
        lengths = [0 if t < 16 else 5 + (t - 16) // 4 for t in tokens]
        widths = [max(length - 3, 0) for length in lengths]
        return [(high << width) | low for high, width, low in zip(result, widths, self.low_bits(widths), strict=True)]

    def low_bits(self, widths: list[int]) -> list[int]:
        result = [0] * len(widths)
        for width in sorted(set(widths) - {0}):
            places = [i for i, found in enumerate(widths) if found == width]
            for shift in range(0, width, 16):
                for place, piece in zip(places, self.bits(min(16, width - shift), len(places)), strict=True):
                    result[place] |= piece << shift
        return result

    def grouped(self, count: int, contexts: list[int] | None, alphabet: int) -> list[int]:
        if contexts is None:
            return self.partition(count, alphabet)
        result = [0] * count
        for context in sorted(set(contexts) - {-1}):
            places = [i for i, found in enumerate(contexts) if found == context]
            for place, symbol in zip(places, self.partition(len(places), alphabet), strict=True):
                result[place] = symbol
        return result


def frequencies(weights: list[int]) -> list[int]:
    """Where every symbol begins, and the end."""
    weights = weights if any(weights) else [1] * len(weights)
    total, n, running, bounds = sum(weights), len(weights), 0, []
    for i, weight in enumerate(weights):
        bounds.append(i + running * (2**24 - n) // total)
        running += weight
    return [*bounds, 2**24]


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def zigzag(value: int) -> int:
    return 2 * value if value >= 0 else -2 * value - 1


def as_float(bits: int, form: str = "f") -> float:
    kind = {"f": "I", "e": "H"}[form]
    return float(struct.unpack("<" + form, struct.pack("<" + kind, bits))[0])


def as_bits(value: float, form: str) -> int:
    try:
        raw = struct.pack("<" + form, value)
    except OverflowError:
        raw = struct.pack("<" + form, math.copysign(math.inf, value))
    return int(struct.unpack("<" + {"f": "I", "e": "H"}[form], raw)[0])


def half_of(width: int) -> int:
    return 1 << (width - 1)


def ordered(bits: int, width: int) -> int:
    return (1 << width) - 1 - bits if bits >= half_of(width) else bits + half_of(width)


def unordered(integer: int, width: int) -> int:
    integer %= 1 << width
    return integer - half_of(width) if integer >= half_of(width) else (1 << width) - 1 - integer


def packed(blob: Bytes, widths: Sequence[int]) -> list[int]:
    bits, numbers = int.from_bytes(blob.take((sum(widths) + 7) // 8), "little"), []
    for width in widths:
        numbers.append(bits % (1 << width))
        bits >>= width
    assert bits == 0
    return numbers
