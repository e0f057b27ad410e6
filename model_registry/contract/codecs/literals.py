"""A manifest as a template and its literals: from release to release numbers and digests change, and the words do not.

In the *template* a mark stands for each integer, each number with a point or an exponent, and each string of hexadecimal
digits. The *literals* that belong there are told apart: numbers by how far they are from those at the same place in the base's
manifest, digests as bytes, which take half as much room as their digits. docs/container-format.md has every byte.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from dataclasses import dataclass
from decimal import Context, Decimal
from enum import IntEnum

import numpy as np

from model_registry.contract.codecs.numbers import Numbers, read_numbers, write_numbers
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import LimitExceeded, MalformedArtifact

MAX_LITERALS = 4096
# Differences of two such numbers, zigzag-coded, stay below 2^32.
MAX_MANTISSA, MAX_EXPONENT = (1 << 30) - 1, 400
# No number within these bounds is longer, and thousands of digits are more than Python reads.
MAX_CHARACTERS = 32

# Possessive: to go back in a string would find nothing, and cost memory for every character.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:e[+-]\d+)?|[^"\d-]+|.', re.DOTALL)
# More digits than the shortest text of any double; whoever set another precision for this process set it for others.
_EXACT = Context(prec=40)
_DIGITS = re.compile(rb'"((?:[0-9a-f]{2}){3,255})"')
_MARKS = re.compile(rb"([\x01\x02]|\x03.)", re.DOTALL)


class Mark(IntEnum):
    """What stands for a literal; behind the last one stands how many bytes. JSON has no such characters."""

    INTEGER = 1
    DECIMAL = 2
    BYTES = 3


class Told(IntEnum):
    """How bytes are told: they are the base's at this place, the digest of the base's content, or in the blob."""

    AS_BEFORE = 0
    BASE = 1
    HERE = 2


@dataclass(frozen=True, slots=True)
class Number:
    """``mantissa`` x 10^``exponent``; that of an integer is 0."""

    mantissa: int
    exponent: int = 0

    def at(self, exponent: int) -> int:
        """The mantissa at another exponent, rounded down."""
        shift = self.exponent - exponent
        found: int = self.mantissa * 10**shift if shift >= 0 else self.mantissa // 10**-shift
        return min(max(found, -MAX_MANTISSA), MAX_MANTISSA)


Literal = Number | bytes


@dataclass(frozen=True, slots=True)
class Places:
    """A template: ``marks``, and the ``words`` before, between and behind them."""

    words: tuple[bytes, ...]
    marks: tuple[bytes, ...]

    @classmethod
    def of(cls, template: bytes) -> Places:
        """Raises LimitExceeded where there are more marks than literals may be."""
        pieces = tuple(_MARKS.split(template))
        if len(pieces) > 2 * MAX_LITERALS + 1:
            raise LimitExceeded(f"{len(pieces) // 2} literals in a manifest are above the limit of {MAX_LITERALS}")
        return cls(pieces[::2], pieces[1::2])

    def found_in(self, other: Places) -> list[int | None]:
        """For every mark the place of the same one behind the same words in ``other``, behind those found before it."""
        places: dict[tuple[bytes, bytes], list[int]] = {}
        for place, key in enumerate(zip(other.words, other.marks, strict=False)):
            places.setdefault(key, []).append(place)
        found: list[int | None] = []
        start = 0
        for key in zip(self.words, self.marks, strict=False):
            those = places.get(key, [])
            at = bisect_left(those, start)
            found.append(those[at] if at < len(those) else None)
            start = those[at] + 1 if at < len(those) else start
        return found


@dataclass(frozen=True, slots=True)
class Template:
    """``text`` with marks, and the ``literals`` that belong there."""

    text: bytes
    literals: tuple[Literal, ...]

    @classmethod
    def of(cls, manifest: bytes) -> Template:
        """Take a manifest apart; what would not come back as it is, and what is too much, stays in the text."""
        text, literals = bytearray(), list[Literal]()
        for token in _TOKENS.findall(manifest):
            mark, literal = _literal(token) if len(literals) < MAX_LITERALS else (token, None)
            text += mark
            if literal is not None:
                literals.append(literal)
        return cls(bytes(text), tuple(literals))

    def before(self, places: Places) -> list[Literal | None]:
        """What stands here at the ``places`` of another template, None where there is no such place."""
        return [None if at is None else self.literals[at] for at in places.found_in(Places.of(self.text))]


def _literal(token: bytes) -> tuple[bytes, Literal | None]:
    """The mark that stands for a token and its literal, or the token itself."""
    digits = _DIGITS.fullmatch(token)
    if digits:
        data = bytes.fromhex(digits[1].decode())
        return b'"%c%c"' % (Mark.BYTES, len(data)), data
    if token[-1:].isdigit() and len(token) <= MAX_CHARACTERS:
        mark = Mark.INTEGER if token.lstrip(b"-").isdigit() else Mark.DECIMAL
        number = _number(token)
        if abs(number.mantissa) <= MAX_MANTISSA and abs(number.exponent) <= MAX_EXPONENT and _written(number, mark) == token:
            return b"%c" % mark, number
    return token, None


def _number(token: bytes) -> Number:
    if token.lstrip(b"-").isdigit():
        return Number(int(token))
    sign, digits, exponent = Decimal(token.decode()).normalize(_EXACT).as_tuple()
    mantissa = int("".join(map(str, digits)))
    return Number(-mantissa if sign else mantissa, int(exponent))


def _written(number: Number, mark: int) -> bytes:
    """As canonical JSON has it. Raises MalformedArtifact."""
    if mark == Mark.INTEGER:
        return b"%d" % number.mantissa
    value = float(f"{number.mantissa}e{number.exponent}")
    if not math.isfinite(value):
        raise MalformedArtifact("a number in the manifest is beyond the range of a double")
    return repr(value).encode()


@dataclass(frozen=True, slots=True)
class Literals:
    """Between ``base``, the manifest of a content with this ``digest``, and a new manifest."""

    base: Template
    digest: bytes

    def write(self, sink: Sink, new: Template) -> None:
        """Tell the literals of ``new`` to somebody who has its text."""
        told, exponents, moves, contexts = list[int](), list[int](), list[int](), list[int]()
        places = Places.of(new.text)
        for mark, literal, old in zip(places.marks, new.literals, self.base.before(places), strict=True):
            if isinstance(literal, bytes):
                told.append(self._told(literal, old))
                sink.blob += literal if told[-1] == Told.HERE else b""
                continue
            before = old if isinstance(old, Number) else Number(0)
            if mark[0] == Mark.DECIMAL:
                exponents.append(literal.exponent - before.exponent)
            moves.append(literal.mantissa - before.at(literal.exponent))
            contexts.append(mark[0])
        sink.symbols.partition(np.array(told, np.int64), len(Told))
        write_numbers(sink.symbols, zigzag(np.array(exponents, np.int64)))
        write_numbers(sink.symbols, zigzag(np.array(moves, np.int64)), np.array(contexts, np.uint8), len(Mark))

    def _told(self, data: bytes, old: Literal | None) -> Told:
        return Told.AS_BEFORE if data == old else Told.BASE if data == self.digest else Told.HERE

    def read(self, source: Source, template: bytes, *, max_bytes: int) -> bytes:
        """The manifest. Raises MalformedArtifact, LimitExceeded."""
        places = Places.of(template)
        kinds = np.array([mark[0] for mark in places.marks], np.uint8)
        numbers = kinds[kinds != Mark.BYTES]
        told = iter(source.symbols.partition(int((kinds == Mark.BYTES).sum()), len(Told), np.uint8).tolist())
        steps = iter(_signed(read_numbers(source.symbols, int((kinds == Mark.DECIMAL).sum()))))
        moves = iter(_signed(read_numbers(source.symbols, numbers.size, numbers, len(Mark))))
        found = [places.words[0]]
        for mark, old, word in zip(places.marks, self.base.before(places), places.words[1:], strict=True):
            if mark[0] == Mark.BYTES:
                found += [self._bytes(next(told), mark[1], old, source).hex().encode(), word]
                continue
            before = old if isinstance(old, Number) else Number(0)
            exponent = before.exponent + next(steps) if mark[0] == Mark.DECIMAL else 0
            if abs(exponent) > MAX_EXPONENT:
                raise MalformedArtifact("a number in the manifest is beyond the range of a double")
            found += [_written(Number(before.at(exponent) + next(moves), exponent), mark[0]), word]
        manifest = b"".join(found)
        if len(manifest) > max_bytes:
            raise LimitExceeded(f"a manifest of {len(manifest)} bytes is above the limit of {max_bytes}")
        return manifest

    def _bytes(self, told: int, size: int, old: Literal | None, source: Source) -> bytes:
        data = (old, self.digest)[told] if told < Told.HERE else source.blob.take(size)
        if not isinstance(data, bytes) or len(data) != size:
            raise MalformedArtifact("a digest in the manifest is told by one that the base does not have")
        return data


def _signed(numbers: Numbers) -> list[int]:
    return [int(number) for number in unzigzag(numbers.astype(np.int64))]
