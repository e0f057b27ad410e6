"""A head that need not make sense: tensors of any encoding, shape, scale and offsets, changed one field at a time."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from model_registry.bench.fuzzing.streams import Note
from model_registry.contract.codecs.heads import read_coders, write_coders
from model_registry.contract.codecs.literals import Literals
from model_registry.contract.codecs.sections import Source
from model_registry.contract.content import ENCODING_BITS, ByteReader
from model_registry.contract.entropy import SymbolWriter
from model_registry.contract.limits import MIB
from model_registry.contract.tensors import rows_of

SIDES = (0, 0, 1, 2, 3, 5, 8, 255, 256, 257, 4096, 1 << 16, 1 << 20, (1 << 20) + 1, 1 << 24, 1 << 31, (1 << 32) - 1)
SCALES = (0, 1, 2, 3, 8, 16, 255, 256, 257, 4096, 1 << 20, (1 << 32) - 1)
VALUE_BYTES = {0: 4, 1: 2, 2: 1, 3: 2, 4: 1}
# In steps from the base's, as most are.
OFFSETS_CODER = 36
MAX_TENSORS = 1 << 12
CODERS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 17, 32, 33, 36, 37, 46, 48, 49, 60, 63, 71)


@dataclass(frozen=True, slots=True)
class LooseTensor:
    """A tensor head with its coder numbers, checked for nothing; ``code``: encoding, and how many offsets a row has."""

    name: bytes
    code: int
    shape: tuple[int, ...]
    scale_size: int
    coders: tuple[int, ...] = (0, 0)

    @property
    def encoding(self) -> int:
        return self.code % (1 << ENCODING_BITS)

    @property
    def offsets(self) -> int:
        return self.code >> ENCODING_BITS

    def to_bytes(self, code: int) -> bytes:
        form = f"<H{len(self.name)}sBB{len(self.shape)}II"
        return struct.pack(form, len(self.name), self.name, code, len(self.shape), *self.shape, self.scale_size)

    @property
    def value_bytes(self) -> int:
        return math.prod(self.shape) * VALUE_BYTES.get(self.encoding, 1)

    @property
    def content_bytes(self) -> int:
        floats = self.scale_size + self.offsets * rows_of(self.shape)
        return len(self.to_bytes(self.code)) + 4 * floats + self.value_bytes


@dataclass(frozen=True, slots=True)
class LooseHead:
    """Manifest, graph and tensors as a ``model`` payload's head has them; ``first``: in the first form."""

    manifest: bytes
    graph: bytes
    tensors: tuple[LooseTensor, ...]
    first: bool

    @classmethod
    def read(cls, data: bytes) -> LooseHead:
        """Of the first form. Raises MalformedArtifact or LimitExceeded when this is no head."""
        reader = ByteReader(data)
        manifest, graph, tensors = _read_parts(reader)
        coded = [replace(tensor, coders=reader.numbers("BB" + tensor.offsets * "B")) for tensor in tensors]
        return cls(manifest, graph, tuple(coded), first=True)

    @classmethod
    def read_outline(cls, data: bytes, source: Source, literals: Literals) -> LooseHead:
        """Of the second form, with the manifest itself in place of its template. Raises as ``read``."""
        template, graph, tensors = _read_parts(ByteReader(data))
        manifest = literals.read(source, template, max_bytes=MIB)
        counts, coders = read_coders(source.symbols, len(tensors))
        coded = [
            replace(tensor, code=tensor.encoding | count << ENCODING_BITS, coders=own)
            for tensor, count, own in zip(tensors, counts, coders, strict=True)
        ]
        return cls(manifest, graph, tuple(coded), first=False)

    def to_bytes(self) -> bytes:
        parts = [struct.pack("<I", len(self.manifest)), self.manifest, struct.pack("<I", len(self.graph)), self.graph]
        parts.append(struct.pack("<I", len(self.tensors)))
        if self.first:
            heads = [tensor.to_bytes(tensor.code) for tensor in self.tensors]
            return b"".join([*parts, *heads, *(_coders_of(tensor) for tensor in self.tensors)])
        return b"".join([*parts, *(tensor.to_bytes(tensor.encoding) for tensor in self.tensors)])

    def symbols(self) -> list[Note]:
        """What the stream of the second form begins with: no literals, the numbers of offsets, the coders."""
        writer = SymbolWriter()
        write_coders(writer, [tensor.offsets for tensor in self.tensors], [_coders_of(tensor) for tensor in self.tensors])
        return [] if self.first else list(writer.resolved())

    @property
    def content_bytes(self) -> int:
        """What a decoder will find that the parts add up to."""
        return 16 + len(self.manifest) + len(self.graph) + sum(tensor.content_bytes for tensor in self.tensors)


def _coders_of(tensor: LooseTensor) -> bytes:
    """As many as a reader takes, whatever the tensor had before."""
    wanted = 2 + tensor.offsets
    return bytes((*tensor.coders, *[OFFSETS_CODER] * wanted)[:wanted])


def _read_parts(reader: ByteReader) -> tuple[bytes, bytes, list[LooseTensor]]:
    manifest, graph, count = reader.block("I", MIB), reader.block("I", MIB), reader.number("I")
    return manifest, graph, [_read_tensor(reader) for _ in range(min(count, MAX_TENSORS))]


def _read_tensor(reader: ByteReader) -> LooseTensor:
    name = reader.take(reader.number("H"))
    code, rank = reader.numbers("BB")
    return LooseTensor(name, code, tuple(reader.number("I") for _ in range(rank)), reader.number("I"))


def change_head(rng: random.Random, head: LooseHead) -> LooseHead:
    """One tensor changed, doubled, dropped or moved; most often only it is kept, so that nothing before it refuses."""
    tensors = list(head.tensors)
    if not tensors:
        return replace(head, tensors=(LooseTensor(b"conv.weight", rng.randrange(6), (2, rng.choice(SIDES)), 1),))
    at = rng.randrange(len(tensors))
    match rng.randrange(8):
        case 0:
            tensors.insert(rng.randrange(len(tensors)), tensors[at])
        case 1:
            del tensors[at]
        case 2:
            rng.shuffle(tensors)
        case _:
            changed = tensors[at]
            for _ in range(rng.choice((1, 1, 2, 3))):
                changed = rng.choice(_CHANGES)(rng, changed)
            tensors[at] = changed
            if rng.randrange(3):
                tensors = [changed]
    return replace(head, tensors=tuple(tensors))


def _side(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    if not tensor.shape:
        return replace(tensor, shape=(rng.choice(SIDES),))
    at = rng.randrange(len(tensor.shape))
    side = rng.choice((*SIDES, max(tensor.shape[at] - 1, 0), tensor.shape[at] + 1))
    return replace(tensor, shape=(*tensor.shape[:at], side, *tensor.shape[at + 1 :]))


def _rank(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    """Sides added or taken; several huge ones next to a zero cost the content nothing."""
    if rng.randrange(2):
        return replace(tensor, shape=tensor.shape[: rng.randrange(len(tensor.shape) + 1)])
    return replace(tensor, shape=(*tensor.shape, *(rng.choice(SIDES) for _ in range(rng.choice((1, 2, 6)))))[:9])


def _hollow(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    """A shape without values, whose sides say something else."""
    sides = [rng.choice(SIDES) for _ in range(rng.randrange(1, 8))]
    sides.insert(rng.randrange(len(sides) + 1), 0)
    return replace(tensor, shape=tuple(sides))


def _encoding(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    code = rng.randrange(6) | rng.choice((0, 0, 1, 2, 3)) << ENCODING_BITS
    return replace(tensor, code=code, scale_size=rng.choice((0, 1, 5)) if rng.randrange(2) else tensor.scale_size)


def _scale(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    return replace(tensor, scale_size=rng.choice((*SCALES, tensor.shape[0] if tensor.shape else 1)))


def _coders(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    at = rng.randrange(len(tensor.coders))
    number = rng.choice((*CODERS, rng.randrange(32, 80), rng.randrange(256)))
    return replace(tensor, coders=(*tensor.coders[:at], number, *tensor.coders[at + 1 :]))


def _name(rng: random.Random, tensor: LooseTensor) -> LooseTensor:
    names = (
        b"conv.weight",
        b"conv.bias",
        b"wide.weight",
        b"half.weight",
        b"full.weight",
        b"few.weight",
        b"empty",
        b"scalar",
        b"x",
    )
    return replace(tensor, name=rng.choice((*names, b"", b"\xff\xfe", b"n" * 300)))


_CHANGES: tuple[Callable[[random.Random, LooseTensor], LooseTensor], ...] = (
    _side, _side, _rank, _hollow, _encoding, _scale, _coders, _coders, _coders, _name,
)  # fmt: skip
