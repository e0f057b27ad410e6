"""A second decoder, written from docs/container-format.md alone: plain Python integers, no numpy, none of the product's code.

Slow and trusting; it exists to prove that the page is enough and that the product does what the page says.
"""

from __future__ import annotations

import bz2
import hashlib
import math
import re
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import zstandard

from tests.contract.second_drift import drift
from tests.contract.second_sparse import SIZE, Block, read_pools
from tests.contract.second_stream import Bytes, Symbols, as_bits, as_float, half_of, ordered, unordered, unzigzag, zigzag

WORDS = b'"like":{"codebooks":true,"step":\2},"lost":\2,"noise":\2,"price":\2,'
FORMS = {0: "f", 1: "e", 2: "b", 3: "h", 4: "B"}
BLOCK = 1 << 20
FEW = 512


@dataclass
class Tensor:
    """Values are raw bit patterns for floats and integers otherwise; scale and offsets, (offsets, rows), are patterns."""

    name: str
    encoding: int
    shape: tuple[int, ...]
    scale: list[int]
    values: list[int]
    offsets: list[list[int]]

    def head(self) -> bytes:
        name = self.name.encode()
        ranks = struct.pack(f"<BB{len(self.shape)}I", self.encoding + 64 * len(self.offsets), len(self.shape), *self.shape)
        return struct.pack("<H", len(name)) + name + ranks + struct.pack("<I", len(self.scale))

    def to_bytes(self) -> bytes:
        form = {0: "I", 1: "H"}.get(self.encoding, FORMS[self.encoding])
        floats = [*self.scale, *(offset for row in self.offsets for offset in row)]
        return self.head() + struct.pack(f"<{len(floats)}I", *floats) + struct.pack(f"<{len(self.values)}{form}", *self.values)

    @property
    def width(self) -> int:
        return 8 * struct.calcsize(FORMS[self.encoding])


@dataclass
class Content:
    manifest: bytes
    graph: bytes
    tensors: list[Tensor]

    def _start(self) -> bytes:
        sizes = struct.pack("<I", len(self.manifest)), struct.pack("<I", len(self.graph))
        return sizes[0] + self.manifest + sizes[1] + self.graph + struct.pack("<I", len(self.tensors))

    def head(self) -> bytes:
        return self._start() + b"".join(t.head() for t in self.tensors)

    def outline(self) -> bytes:
        without = [Tensor(t.name, t.encoding, t.shape, t.scale, [], []).head() for t in self.tensors]
        return WORDS + Content(template(self.manifest)[0], self.graph, self.tensors)._start() + b"".join(without)

    def to_bytes(self) -> bytes:
        return b"DFC1" + self._start() + b"".join(t.to_bytes() for t in self.tensors)


def read_content(data: bytes) -> Content:
    reader = Bytes(data)
    assert reader.take(4) == b"DFC1"
    content = Content(reader.block(), reader.block(), [])
    for _ in range(reader.number("I")):
        name, encoding, shape, offsets, count = read_tensor_head(reader)
        tensor = Tensor(name, encoding, shape, [reader.number("I") for _ in range(count)], [], [])
        tensor.offsets = [[reader.number("I") for _ in range(rows_of(shape))] for _ in range(offsets)]
        form = {0: "I", 1: "H"}.get(encoding, FORMS[encoding])
        tensor.values = [reader.number(form) for _ in range(math.prod(shape))]
        content.tensors.append(tensor)
    assert not reader.rest()
    return content


def read_tensor_head(reader: Bytes) -> tuple[str, int, tuple[int, ...], int, int]:
    name = reader.take(reader.number("H")).decode()
    code, rank = reader.number("B"), reader.number("B")
    return name, code % 64, tuple(reader.number("I") for _ in range(rank)), code // 64, reader.number("I")


def rows_of(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def decode_full(data: bytes) -> bytes:
    reader = Bytes(data)
    magic = reader.take(4)
    assert magic in (b"DFM1", b"DFM2")
    reader.take(32 + 8)
    if magic == b"DFM1":
        return decode_first_model(reader.rest(), Content(b"", b"", []), b"")
    return decode_model(reader.rest(), Content(b"", b"", []), b"", WORDS)


def decode_delta(data: bytes, base: bytes) -> bytes:
    reader = Bytes(data)
    magic = reader.take(4)
    assert magic in (b"DFD1", b"DFD2")
    codec = reader.number("B")
    reader.take(64 + 8)
    payload = reader.rest()
    if codec == 0:
        old = read_content(base)
        if magic == b"DFD2":
            return decode_model(payload, old, hashlib.sha256(base).digest(), old.outline())
        return decode_first_model(payload, old, hashlib.sha256(base).hexdigest().encode() + old.head())
    return decode_bsdiff(payload, base) if codec == 1 else inflate(payload, base)


def inflate(frame: bytes, dictionary: bytes = b"") -> bytes:
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if dictionary else None
    return zstandard.ZstdDecompressor(dict_data=raw).decompress(frame)


def decode_bsdiff(patch: bytes, base: bytes) -> bytes:
    reader = Bytes(patch)
    assert reader.take(8) == b"BSDIFF40"
    control_size, diff_size, size = (magnitude(reader) for _ in range(3))
    control = Bytes(bz2.decompress(reader.take(control_size)))
    diff, extra = Bytes(bz2.decompress(reader.take(diff_size))), Bytes(bz2.decompress(reader.rest()))
    result, at = b"", 0
    while control.at < len(control.data):
        x, y, z = (magnitude(control) for _ in range(3))
        result += bytes((a + b) % 256 for a, b in zip(diff.take(x), base[at : at + x], strict=True)) + extra.take(y)
        at += x + z
    assert len(result) == size
    return result


def magnitude(reader: Bytes) -> int:
    value = reader.number("Q")
    return -(value - 2**63) if value >= 2**63 else value


def decode_first_model(payload: bytes, base: Content, dictionary: bytes) -> bytes:
    reader = Bytes(payload)
    head = Bytes(inflate(reader.block(), dictionary))
    blob, symbols = Bytes(reader.block()), Symbols(reader.rest(), laws=False)
    manifest, graph = head.block(), head.block()
    heads = [read_tensor_head(head) for _ in range(head.number("I"))]
    coders = [[head.number("B") for _ in range(2 + offsets)] for _, _, _, offsets, _ in heads]
    assert not head.rest()
    return decode_tensors(Content(manifest, graph, []), heads, coders, base, (blob, symbols))


def decode_model(payload: bytes, base: Content, digest: bytes, dictionary: bytes) -> bytes:
    reader = Bytes(payload)
    head = Bytes(inflate(b"\x28\xb5\x2f\xfd" + reader.short(), dictionary))
    blob, symbols = Bytes(reader.short()), Symbols(reader.rest(), laws=True)
    text, graph = head.block(), head.block()
    manifest = filled(text, template(base.manifest), digest, blob, symbols)
    heads = [read_tensor_head(head) for _ in range(head.number("I"))]
    assert not head.rest()
    counts = symbols.numbers(len(heads))
    scales = [(16, 37, 34, 2)[rank] if rank < 4 else others((16, 37, 34, 2), rank - 4) for rank in symbols.numbers(len(heads))]
    usual = (16, 2, 48, 54, 50, 60)
    coded_values = [usual[rank] if rank < 6 else others(usual, rank - 6) for rank in symbols.numbers(len(heads))]
    of_offsets = [(36, 16)[rank] if rank < 2 else others((36, 16), rank - 2) for rank in symbols.numbers(sum(counts))]
    coders = [[a, b, *(of_offsets.pop(0) for _ in range(n))] for n, a, b in zip(counts, scales, coded_values, strict=True)]
    assert not any(offsets for _, _, _, offsets, _ in heads)
    heads = [(name, e, shape, n, count) for (name, e, shape, _, count), n in zip(heads, counts, strict=True)]
    return decode_tensors(Content(manifest, graph, []), heads, coders, base, (blob, symbols))


def others(usual: tuple[int, ...], place: int) -> int:
    return [number for number in range(256) if number not in usual][place]


def template(manifest: bytes) -> tuple[bytes, list[tuple[int, int] | bytes]]:
    """With marks, and what belongs there: mantissa and exponent, or bytes."""
    text, literals = b"", list[tuple[int, int] | bytes]()
    for token in re.findall(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.e+-]*|[^"0-9-]+|-', manifest):
        literal = literal_of(token) if len(literals) < 4096 else None
        if literal is None:
            text += token
            continue
        literals.append(literal)
        if isinstance(literal, bytes):
            text += b'"\3' + bytes([len(literal)]) + b'"'
        else:
            text += b"\2" if re.search(rb"[.e]", token) else b"\1"
    return text, literals


def literal_of(token: bytes) -> tuple[int, int] | bytes | None:
    if re.fullmatch(rb'"([0-9a-f]{2}){3,255}"', token):
        return bytes.fromhex(token[1:-1].decode())
    if not re.fullmatch(rb"-?[0-9][0-9.e+-]*", token):
        return None
    integer, _, rest = token.partition(b"e")
    whole, _, fraction = integer.partition(b".")
    mantissa, exponent = int(whole + fraction), int(rest or b"0") - len(fraction)
    if re.search(rb"[.e]", token):
        while mantissa and mantissa % 10 == 0:
            mantissa, exponent = mantissa // 10, exponent + 1
        exponent = exponent if mantissa else 0
    fits = abs(mantissa) < 2**30 and abs(exponent) <= 400
    return (mantissa, exponent) if fits and written(mantissa, exponent, token) == token else None


def written(mantissa: int, exponent: int, like: bytes) -> bytes:
    return repr(float(f"{mantissa}e{exponent}") if re.search(rb"[.e\x02]", like) else mantissa).encode()


def filled(
    text: bytes, base: tuple[bytes, list[tuple[int, int] | bytes]], digest: bytes, blob: Bytes, symbols: Symbols
) -> bytes:
    pieces, known = (re.split(rb"([\x01\x02]|\x03[\x00-\xff])", t) for t in (text, base[0]))
    marks = pieces[1::2]
    told = symbols.partition(sum(mark[0] == 3 for mark in marks), 3)
    steps = [unzigzag(n) for n in symbols.numbers(sum(mark == b"\2" for mark in marks))]
    kinds = [mark[0] for mark in marks if mark[0] < 3]
    moves = [unzigzag(n) for n in symbols.numbers(len(kinds), kinds)]
    manifest, cursor = b"", 0
    for word, mark in zip(pieces[::2], marks, strict=False):
        at = next((i for i in range(cursor, len(base[1])) if known[2 * i : 2 * i + 2] == [word, mark]), None)
        old, cursor = (None, cursor) if at is None else (base[1][at], at + 1)
        manifest += word
        if mark[0] == 3:
            how = told.pop(0)
            data = blob.take(mark[1]) if how == 2 else digest if how else old
            assert isinstance(data, bytes)
            assert len(data) == mark[1]
            manifest += data.hex().encode()
            continue
        before, exponent = old if isinstance(old, tuple) else (0, 0)
        at_exponent = exponent + steps.pop(0) if mark == b"\2" else 0
        shift = exponent - at_exponent
        moved = before * 10**shift if shift >= 0 else before // 10**-shift
        manifest += written(max(min(moved, 2**30 - 1), 1 - 2**30) + moves.pop(0), at_exponent, mark)
    return manifest + pieces[-1]


def decode_tensors(
    content: Content,
    heads: list[tuple[str, int, tuple[int, ...], int, int]],
    coders: list[list[int]],
    base: Content,
    source: tuple[Bytes, Symbols],
) -> bytes:
    blob, symbols = source
    known, pending = {t.name: t for t in base.tensors}, []
    for (name, encoding, shape, offsets, count), numbers in zip(heads, coders, strict=True):
        tensor, old = Tensor(name, encoding, shape, [], [], []), known.get(name)
        tensor.scale = scale(numbers[0], count, old.scale if old else None, blob, symbols)
        coder = numbers[1]
        if coder >= 70:
            read_offsets(tensor, offsets, numbers[2:], old, source)
        if coder >= 48:
            assert old is not None
            pending += sparse(coder - 48, tensor, old, symbols)
        else:
            tensor.values = values(coder, tensor, old, blob, symbols)
        if coder < 70:
            read_offsets(tensor, offsets, numbers[2:], old, source)
        content.tensors.append(tensor)
    read_pools(pending, symbols)
    assert not blob.rest()
    assert symbols.state == 0
    assert not symbols.words
    return content.to_bytes()


def read_offsets(tensor: Tensor, count: int, coders: list[int], old: Tensor | None, source: tuple[Bytes, Symbols]) -> None:
    for number in range(count):
        before = offsets_before(old, number, rows_of(tensor.shape))
        tensor.offsets.append(scale(coders[number], len(before), before, *source))


def offsets_before(old: Tensor | None, number: int, rows: int) -> list[int]:
    """The base's, 0 where it has none."""
    known = old.offsets[number] if old and number < len(old.offsets) else []
    return [*known[:rows], *[0] * (rows - len(known))]


def scale(coder: int, count: int, old: list[int] | None, blob: Bytes, symbols: Symbols) -> list[int]:
    if coder == 16:
        assert old is not None
        return old
    if coder == 37:
        assert old is not None
        octave = blob.number("B") - 127
        entries = [0.0 if math.isnan(as_float(bits)) else as_float(bits) for bits in old]
        return [as_bits(math.ldexp(entry, octave), "f") for entry in entries]
    form = "e" if coder % 2 == 0 else "f"
    width = 8 * struct.calcsize(form)
    if coder in (34, 35):
        assert old is not None
        weights = [as_float(bits) for bits in old]
        plain = drift(form, (count,), [0.0 if math.isnan(w) else w for w in weights], blob, symbols)
    elif coder == 36:
        assert old is not None
        octave = blob.number("B") - 24
        weights = [as_float(as_bits(as_float(bits), form), form) for bits in old]
        moves = [math.ldexp(unzigzag(number), octave) for number in symbols.numbers(count)]
        plain = [as_bits((0.0 if math.isnan(w) else w) + move, form) for w, move in zip(weights, moves, strict=True)]
    elif coder in (2, 3):
        plain = [blob.number("H" if form == "e" else "I") for _ in range(count)]
    else:
        steps = [unzigzag(number) for number in symbols.numbers(count)]
        plain, before = [], 0
        for i, step in enumerate(steps):
            if coder >= 32:
                assert old is not None
                known = as_float(old[i])
                before = ordered(as_bits(0.0 if math.isnan(known) else known, form), width)
            before = (before + step) % 2**width
            plain.append(unordered(before, width))
    return [as_bits(as_float(bits, form), "f") for bits in plain]


class Numbering:
    """Integers of a tensor's values, as the page defines them."""

    def __init__(self, encoding: int, entries: list[int]) -> None:
        self.encoding = encoding
        self.width = 8 * struct.calcsize(FORMS[encoding])
        self.order = sorted(range(len(entries)), key=lambda i: (ordered(entries[i], 32), i)) if encoding == 4 else []
        self.alphabet = {2: 256, 4: len(entries)}.get(encoding)
        self.levels = [as_float(entries[entry]) for entry in self.order]
        zeros = [rank for rank, entry in enumerate(self.order) if as_float(entries[entry]) == 0]
        self.zero = {2: 128, 3: 0, 4: zeros[0] if zeros else None}.get(encoding, half_of(self.width))

    def integer(self, value: int) -> int:
        match self.encoding:
            case 4:
                return self.order.index(value)
            case 2:
                return value + 128
            case 3:
                return value
            case _:
                return ordered(value, self.width)

    def value(self, integer: int) -> int:
        match self.encoding:
            case 4:
                return self.order[integer]
            case 2:
                return integer - 128
            case 3:
                return integer
            case _:
                return unordered(integer, self.width)


def values(coder: int, new: Tensor, old: Tensor | None, blob: Bytes, symbols: Symbols) -> list[int]:
    size, numbering = math.prod(new.shape), Numbering(new.encoding, new.scale)
    form = {0: "I", 1: "H"}.get(new.encoding, FORMS[new.encoding])
    match coder:
        case 0:
            return [blob.number(form) for _ in range(size)]
        case 1:
            return list(struct.unpack(f"<{size}{form}", inflate(blob.block())))
        case 2:
            assert numbering.alphabet
            return [numbering.value(i) for i in symbols.partition(size, numbering.alphabet)]
        case 3:
            return [unzigzag(number) for number in symbols.numbers(size)]
        case 4:
            planes = [symbols.partition(size, 256) for _ in range(new.width // 8)]
            turned = [int.from_bytes(bytes(column), "big") for column in zip(*planes, strict=True)]
            return [(bits >> 1) | (bits % 2 << (new.width - 1)) for bits in turned]
        case 5:
            steps = symbols.numbers(blob.number("B") + 1)
            palette = [unordered(sum(steps[: i + 1]), new.width) for i in range(len(steps))]
            return [palette[i] for i in symbols.partition(size, len(palette))]
        case 16:
            assert old is not None
            return old.values
        case 45:
            assert old is not None
            olds, count = Numbering(old.encoding, old.scale), len(new.scale)
            ranks = [(rank + step) % count for rank, step in enumerate(symbols.partition(len(old.scale), count))]
            return [numbering.value(ranks[olds.integer(value)]) for value in old.values]
        case 44:
            assert old is not None
            weights = [0.0 if place is None else offset(old, place) for place in places(new.shape, old.shape)]
            return drift(FORMS[new.encoding], new.shape, [0.0 if math.isnan(w) else w for w in weights], blob, symbols)
        case 46 | 47:
            assert old is not None
            expected = [numbering.zero or 0 if p is None else p for p in predictions(new, old, numbering, coder - 46)]
            sent = symbols.numbers(size)
            return [numbering.value(p + unzigzag(number)) for p, number in zip(expected, sent, strict=True)]
        case _:
            assert old is not None
            return changes(coder - 32, new, old, numbering, symbols)


def offset(old: Tensor, place: int) -> float:
    """A weight with its row's offsets."""
    found = weight(old, place)
    if not old.offsets or not (found > 0 or found < 0):
        return found
    row = place // max(math.prod(old.shape[1:]), 1) if old.shape else 0
    shift, *stretch = (as_float(row_of[row]) for row_of in old.offsets)
    away = stretch[0] if stretch else 0.0
    moved = as_float(as_bits(shift + away if found > 0 else shift - away, "f"))
    return as_float(as_bits(found + moved, "f"))


def weight(old: Tensor, place: int) -> float:
    value = old.values[place]
    if old.encoding < 2:
        return as_float(value, FORMS[old.encoding])
    if old.encoding == 4:
        return as_float(old.scale[value])
    row = place // max(math.prod(old.shape[1:]), 1) if len(old.scale) > 1 else 0
    return as_float(as_bits(value * as_float(old.scale[row]), "f"))


def places(shape: tuple[int, ...], old: tuple[int, ...]) -> Iterator[int | None]:
    """Where the base has what belongs to every index; None outside the overlap."""
    strides = [math.prod(old[axis + 1 :]) for axis in range(len(old))]
    for index in product(*map(range, shape)):
        inside = all(i < side for i, side in zip(index, old, strict=True))
        yield sum(i * stride for i, stride in zip(index, strides, strict=True)) if inside else None


def predictions(new: Tensor, old: Tensor, numbering: Numbering, by_weight: int) -> list[int | None]:
    olds = Numbering(old.encoding, old.scale)
    result: list[int | None] = []
    row_size = max(math.prod(new.shape[1:]), 1)
    for at, place in enumerate(places(new.shape, old.shape)):
        if place is None:
            result.append(None)
        elif by_weight:
            found = offset(old, place) if new.encoding < 2 else weight(old, place)
            result.append(nearest(new, numbering, 0.0 if math.isnan(found) else found, at // row_size))
        else:
            integer = olds.integer(old.values[place])
            result.append(min(integer, numbering.alphabet - 1) if numbering.alphabet else integer)
    return result


def nearest(new: Tensor, numbering: Numbering, value: float, row: int) -> int:
    if new.encoding == 4:
        levels = [as_float(new.scale[entry]) for entry in numbering.order]
        return bisect_left([(a + b) / 2 for a, b in zip(levels[1:], levels[:-1], strict=True)], value)
    if new.encoding < 2:
        return ordered(as_bits(value, FORMS[new.encoding]), new.width)
    step, half = as_float(new.scale[row if len(new.scale) > 1 else 0]), half_of(new.width)
    quotient = value / step if step else math.nan
    grid = round(quotient) if math.isfinite(quotient) else 0
    return max(-half, min(half - 1, grid)) + (128 if new.encoding == 2 else 0)


def changes(number: int, new: Tensor, old: Tensor, numbering: Numbering, symbols: Symbols) -> list[int]:
    by_weight, replaced, activity = number // 6, number // 3 % 2, number % 3
    predicted = predictions(new, old, numbering, by_weight)
    lengths = [symbols.partition(side, 33) for side in new.shape[:activity]]
    result: list[int] = []
    for start in range(0, len(predicted), BLOCK):
        block = predicted[start : start + BLOCK]
        kinds, contexts = contexts_of(block, start, new.shape, lengths, numbering)
        filled = [numbering.zero or 0 if p is None else p for p in block]
        decode = replacements if replaced else steps
        result += [numbering.value(i) for i in decode(filled, contexts, kinds, numbering, symbols)]
    return result


def sparse(number: int, new: Tensor, old: Tensor, symbols: Symbols) -> list[Block]:
    """Blocks that fill in ``new.values`` one after the other."""
    numbering = Numbering(new.encoding, new.scale)
    pruned, directed = number in (12, 13), number >= 14
    by_weight, by_context, activity = number // 6, number // 3 % 2, number % 3
    if pruned:
        by_weight, by_context, activity = number - 12, 0, 0
    if directed:
        by_weight, by_context, activity = (number - 14) // 4 % 2, (number - 14) // 2 % 2, (number - 14) % 2 + 1
    predicted = predictions(new, old, numbering, by_weight)
    if number >= 22:
        lengths = [symbols.numbers(new.shape[0], moves(new, old))]
        lengths += [symbols.numbers(side) for side in new.shape[1:activity]]
        assert all(length < 33 for axis in lengths for length in axis)
    else:
        lengths = [symbols.partition(side, 33) for side in new.shape[:activity]]
    moving = [row for row, length in enumerate(lengths[0]) if length] if directed else []
    going_down = {row for row, down in zip(moving, symbols.partition(len(moving), 2), strict=True) if down}
    row_size = math.prod(new.shape[1:])
    blocks = []
    for start in range(0, len(predicted), SIZE):
        block = predicted[start : start + SIZE]
        filled = [numbering.zero or 0 if p is None else p for p in block]

        def finish(sent: dict[int, int], filled: list[int] = filled, start: int = start) -> None:
            if pruned:
                assert numbering.zero is not None
                filled = [numbering.zero if place in sent else p for place, p in enumerate(filled)]
                sent = {place: step - 1 for place, step in sent.items()}
            for place, p in enumerate(filled):
                down = bool(going_down) and (start + place) // row_size in going_down
                new.values.append(numbering.value(stepped(p, sent.get(place, 0), numbering, down=down)))

        kinds, contexts = contexts_of(block, start, new.shape, lengths, numbering)
        count = 14 if new.encoding == 4 else 3
        of_steps = (contexts, 16 * count) if by_context else (kinds, count)
        if pruned:
            contexts, of_steps = magnitudes(block, numbering), ([0] * len(block), 1)
        if len(block) < FEW:
            contexts = [0] * len(block)
            of_steps = (contexts, 1)
        blocks.append(Block(contexts, *of_steps, finish))
    return blocks


def moves(new: Tensor, old: Tensor) -> list[int]:
    rows = new.shape[0]
    after = new.offsets[0] if new.offsets else [0] * rows
    distances = [as_float(a) - as_float(b) for a, b in zip(after, offsets_before(old, 0, rows), strict=True)]
    rounded = [abs(as_float(as_bits(distance, "f"))) for distance in distances]
    exponents = [math.frexp(move)[1] if math.isfinite(move) and move else None for move in rounded]
    largest = max((e for e in exponents if e is not None), default=0)
    return [0 if e is None else max(1, 4 - (largest - e)) for e in exponents]


def magnitudes(block: list[int | None], numbering: Numbering) -> list[int]:
    largest = float(half_of(numbering.width))
    if numbering.encoding == 4:
        largest = max((abs(level) for level in numbering.levels if math.isfinite(level)), default=0.0) or 1.0

    def magnitude(p: int) -> int:
        if p == numbering.zero:
            return 121
        weight = numbering.levels[p] if numbering.encoding == 4 else numbering.value(p)
        ratio = max(abs(weight) / largest if math.isfinite(weight) else 0.0, 2.0**-15)
        return 1 - math.frexp(((ratio * ratio) ** 2) ** 2)[1]

    return [122 if p is None else magnitude(p) for p in block]


def contexts_of(
    block: list[int | None], start: int, shape: tuple[int, ...], lengths: list[list[int]], numbering: Numbering
) -> tuple[list[int], list[int]]:
    """Kinds and contexts."""
    kinds, count = kinds_of(block, numbering)
    contexts = list(kinds)
    for i in range(len(block) if lengths else 0):
        rows = math.prod(shape[1:])
        axes = (start + i) // rows, (start + i) % rows // (rows // shape[1])
        found = [length[axis] for length, axis in zip(lengths, axes, strict=False)]
        contexts[i] = min(15, sum(found)) * count + kinds[i] if all(found) else -1
    return kinds, contexts


def cell_classes(numbering: Numbering) -> list[int]:
    levels = numbering.levels
    exponents = []
    for rank, level in enumerate(levels):
        below = level - levels[rank - 1] if rank else 0.0
        above = levels[rank + 1] - level if rank + 1 < len(levels) else 0.0
        cell = below + above
        exponents.append(math.frexp(cell * cell)[1] if math.isfinite(cell) else 0)
    classes = [min(11, max(exponents) - e) for e in exponents]
    if numbering.zero is not None:
        classes[numbering.zero] = 12
    return classes


def kinds_of(block: list[int | None], numbering: Numbering) -> tuple[list[int], int]:
    if numbering.encoding == 4:
        cells = cell_classes(numbering)
        return [13 if p is None else cells[p] for p in block], 14
    if numbering.encoding >= 2:
        return [2 if p is None else int(p == numbering.zero) for p in block], 3
    mantissa = 23 if numbering.encoding == 0 else 10
    filled = [numbering.zero or 0 if p is None else p for p in block]
    fields = [unordered(p, numbering.width) % half_of(numbering.width) >> mantissa for p in filled]
    return [16 if p is None else min(15, max(fields) - field) for p, field in zip(block, fields, strict=True)], 17


Decode = Callable[[list[int], list[int], list[int], Numbering, Symbols], Iterator[int]]


def steps(predicted: list[int], contexts: list[int], kinds: list[int], numbering: Numbering, symbols: Symbols) -> Iterator[int]:
    count, alphabet = len(predicted), numbering.alphabet
    sent = symbols.grouped(count, contexts, alphabet) if alphabet else symbols.numbers(count, contexts)
    yield from (stepped(p, step, numbering) for p, step in zip(predicted, sent, strict=True))


def stepped(p: int, sent: int, numbering: Numbering, *, down: bool = False) -> int:
    sign = -1 if down else 1
    if numbering.alphabet is None:
        return p + sign * unzigzag(sent)
    alphabet, half, step = numbering.alphabet, numbering.alphabet // 2, sent
    if numbering.zero is not None and p != numbering.zero:
        to_zero = zigzag((sign * (numbering.zero - p) + half) % alphabet - half)
        step = to_zero if sent == 1 else sent - 1 if 2 <= sent <= to_zero else sent
    return (p + sign * unzigzag(step)) % alphabet


def replacements(
    predicted: list[int], contexts: list[int], kinds: list[int], numbering: Numbering, symbols: Symbols
) -> Iterator[int]:
    assert numbering.alphabet
    flags = symbols.grouped(len(predicted), contexts, 2)
    chosen = [kind for kind, flag in zip(kinds, flags, strict=True) if flag]
    fresh = iter(symbols.grouped(len(chosen), chosen, numbering.alphabet))
    yield from (next(fresh) if flag else p for p, flag in zip(predicted, flags, strict=True))
