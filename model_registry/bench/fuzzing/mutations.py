"""One artifact into another: at the surface, or unpacked, changed inside and packed again with lengths and digests that fit.

Every mutation takes its decisions from a ``random.Random``, so that either engine can drive it. What cannot be unpacked is
changed at the surface.
"""

from __future__ import annotations

import bz2
import hashlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from model_registry.bench.fuzzing.heads import LooseHead, change_head
from model_registry.bench.fuzzing.streams import exchanged, invented
from model_registry.contract.codecs.heads import ContentHead
from model_registry.contract.codecs.literals import Mark
from model_registry.contract.codecs.model import dictionary_of, encode_tensors, first_dictionary_of, literals_of, pack
from model_registry.contract.codecs.sections import (
    ZSTD_MAGIC,
    Source,
    compress,
    decompress,
    read_short_length,
    short_length,
)
from model_registry.contract.content import ByteReader, Content, content_parts
from model_registry.contract.delta import HEADER_BYTES as DELTA_HEADER_BYTES
from model_registry.contract.delta import MAGIC as DELTA_MAGIC
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.entropy import SymbolReader
from model_registry.contract.errors import Refusal
from model_registry.contract.full import HEADER_BYTES as FULL_HEADER_BYTES
from model_registry.contract.full import MAGIC as FULL_MAGIC
from model_registry.contract.full import decode_full
from model_registry.contract.limits import Limits

NUMBERS = (0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 1 << 20, 0xFFFFFF, 1 << 24, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BOMB_BYTES = 1 << 23
LONG_NUMBERS = (*NUMBERS, 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, (1 << 64) - 1)


@dataclass(frozen=True, slots=True)
class Bases:
    """The contents that a delta may name, and the limits that decoding is held to."""

    contents: tuple[Content, ...]
    limits: Limits

    def of(self, artifact: bytes) -> Content:
        """The base that a delta names; for any other digest the first, which decoding must refuse."""
        named = artifact[5:37].hex()
        return next((content for content in self.contents if content.sha256 == named), self.contents[0])

    def decode(self, artifact: bytes) -> Content:
        """Decode as a vehicle would. Raises ArtifactRefused or ManifestRefused."""
        if artifact[:3] == b"DFD":
            return apply_delta(self.of(artifact), artifact, self.limits)
        return decode_full(artifact, self.limits)


@dataclass(frozen=True, slots=True)
class Parts:
    """A ``model`` artifact taken apart."""

    header: bytes
    head: bytes
    blob: bytes
    words: bytes
    dictionary: bytes

    @property
    def first(self) -> bool:
        return is_first(self.header)

    @property
    def is_delta(self) -> bool:
        return self.header[:3] == b"DFD"

    def pack(self) -> bytes:
        frame = compress(self.head, level=1, dictionary=self.dictionary)
        return b"".join([self.header, *framed(frame, self.blob, first=self.first), self.words])

    def resized(self, more: int) -> Parts:
        """With another declared size of the content."""
        declared = struct.unpack("<Q", self.header[-8:])[0]
        return replace(self, header=self.header[:-8] + struct.pack("<Q", (declared + more) & (2**64 - 1)))


def is_first(artifact: bytes) -> bool:
    """Whether an artifact is of the first form."""
    return artifact[3:4] == b"1"


def dictionary_for(base: Content | None, *, first: bool) -> bytes:
    """Of the head's frame."""
    return first_dictionary_of(base) if first else dictionary_of(base, literals_of(base))


def framed(frame: bytes, blob: bytes, *, first: bool) -> tuple[bytes, bytes, bytes, bytes]:
    """A payload up to its symbols."""
    if first:
        return struct.pack("<I", len(frame)), frame, struct.pack("<I", len(blob)), blob
    frame = frame.removeprefix(ZSTD_MAGIC)
    return short_length(len(frame)), frame, short_length(len(blob)), blob


def mutate(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    """One to three mutations, most of them inside."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        inside = _inside(artifact) if rng.randrange(8) else _surface
        try:
            artifact = inside(rng, artifact, bases)
        except Refusal:
            artifact = _surface(rng, artifact, bases)
        # The decoder fell over while the artifact was taken apart: it is a finding already.
        except Exception:
            return artifact
    return artifact


Mutation = Callable[[random.Random, bytes, Bases], bytes]


def _inside(artifact: bytes) -> Mutation:
    if artifact[:3] != b"DFD" or len(artifact) < DELTA_HEADER_BYTES:
        return _model
    match artifact[4]:
        case 1:
            return _bsdiff4
        case 2:
            return _zstd
        case _:
            return _model


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bits, bytes, numbers, pieces taken out, doubled or cut off."""
    changed, at = bytearray(data), rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0:
            changed[at : at + 1] = bytes(b ^ (1 << rng.randrange(8)) for b in changed[at : at + 1])
        case 1:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        case 2:
            changed[at : at + 4] = struct.pack("<I", rng.choice(NUMBERS))
        case 3:
            del changed[at : at + rng.randrange(1, 20)]
        case 4:
            changed[at:at] = changed[: rng.randrange(1, 40)]
        case 5:
            changed[at:at] = bytes(rng.choice((1, 4, 64)))
        case _:
            del changed[at:]
    return bytes(changed)


def _surface(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    """The file's bytes, its header, or another base's name."""
    is_delta = artifact[:3] == b"DFD"
    header = DELTA_HEADER_BYTES if is_delta else FULL_HEADER_BYTES
    match rng.randrange(5):
        case 0 if len(artifact) >= header:
            size = struct.pack("<Q", rng.choice(LONG_NUMBERS))
            return artifact[: header - 8] + size + artifact[header:]
        case 1 if is_delta:
            return artifact[:5] + bytes.fromhex(rng.choice(bases.contents).sha256) + artifact[37:]
        case 2 if is_delta:
            return artifact[:4] + bytes([rng.randrange(len(Codec) + 1)]) + artifact[5:]
        case _:
            return change_bytes(rng, artifact)


def unpack(artifact: bytes, bases: Bases) -> Parts:
    """A ``model`` artifact taken apart. Raises Refusal when it is none."""
    is_delta, first = artifact[:3] == b"DFD", is_first(artifact)
    dictionary = dictionary_for(bases.of(artifact) if is_delta else None, first=first)
    reader = ByteReader(artifact)
    header = reader.take(DELTA_HEADER_BYTES if is_delta else FULL_HEADER_BYTES)
    if first:
        frame, blob = reader.block("I", len(artifact)), reader.block("I", len(artifact))
    else:
        frame = ZSTD_MAGIC + reader.take(read_short_length(reader))
        blob = reader.take(read_short_length(reader))
    head = decompress(frame, max_bytes=bases.limits.max_content_bytes, dictionary=dictionary)
    return Parts(header, head, blob, reader.rest(), dictionary)


def _model(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    parts = unpack(artifact, bases)
    match rng.randrange(8):
        case 0:
            return replace(parts, head=change_bytes(rng, parts.head)).pack()
        case 4:
            return replace(parts, blob=change_bytes(rng, parts.blob)).pack()
        case 5:
            words = change_bytes(rng, parts.words)
            return replace(parts, words=words[: len(words) // 4 * 4]).pack()
        case 6:
            return replace(parts, words=exchanged(rng, lambda: bases.decode(artifact))).pack()
        case 7:
            return _sealed(rng, artifact, bases)
        case _:
            return _with_head(rng, artifact, parts, bases)


def _with_head(rng: random.Random, artifact: bytes, parts: Parts, bases: Bases) -> bytes:
    """Other tensors, other coders; the declared size fits what the head adds up to, and the blob what may be asked of it."""
    before = loose_head(parts, bases.of(artifact))
    head = change_head(rng, before)
    blob = parts.blob + rng.randbytes(rng.choice((0, 0, 4, 400)))
    parts = replace(parts, head=head.to_bytes(), blob=blob).resized(head.content_bytes - before.content_bytes)
    if parts.first and rng.randrange(2):
        return parts.pack()
    forged = parts.pack()
    return replace(parts, words=invented(rng, lambda: bases.decode(forged), head.symbols())).pack()


def loose_head(parts: Parts, base: Content) -> LooseHead:
    """The head of an artifact that was taken apart. Raises Refusal when it has none."""
    if parts.first:
        return LooseHead.read(parts.head)
    source = Source(parts.blob, SymbolReader(parts.words))
    return LooseHead.read_outline(parts.head, source, literals_of(base if parts.is_delta else None))


def _sealed(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    """Another manifest or graph under a digest that fits: what nobody but the holder of a key could offer."""
    content = bases.decode(artifact)
    head = ContentHead.of(content)
    if rng.randrange(4):
        # A template's marks are no part of any text.
        head = replace(head, manifest=change_bytes(rng, head.manifest).translate(None, delete=bytes(Mark)))
    else:
        head = replace(head, graph=change_bytes(rng, head.graph))
    digest = hashlib.sha256(b"".join(content_parts(head.manifest, head.graph, content.tensors))).digest()
    size = struct.pack("<Q", head.content_bytes)
    base = bases.of(artifact) if artifact[:3] == b"DFD" else None
    header = DELTA_MAGIC + artifact[4:37] if base else FULL_MAGIC
    return header + digest + size + pack(base, head, *encode_tensors(base, content.tensors))


def _content(rng: random.Random, artifact: bytes, bases: Bases) -> tuple[bytes, bytes]:
    """A header and the changed content bytes that it names."""
    try:
        data = bases.decode(artifact).data
    except Refusal:
        data = rng.choice(bases.contents).data
    data = change_bytes(rng, data)
    digest = hashlib.sha256(data).digest() if rng.randrange(4) else bytes(32)
    return artifact[:37] + digest + struct.pack("<Q", len(data)), data


def _zstd(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    if not rng.randrange(3):
        return artifact[:DELTA_HEADER_BYTES] + change_bytes(rng, artifact[DELTA_HEADER_BYTES:])
    header, data = _content(rng, artifact, bases)
    return header + compress(data, level=1, dictionary=bases.of(artifact).data)


def _bsdiff4(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    if not rng.randrange(3):
        header, data = _content(rng, artifact, bases)
        return header + _patch(_entry(0, len(data), 0), b"", data, len(data))
    reader = ByteReader(artifact[DELTA_HEADER_BYTES:])
    reader.take(8)
    sizes = [min(reader.number("Q"), len(artifact)) for _ in range(3)]
    streams = [_plain(packed) for packed in (reader.take(sizes[0]), reader.take(sizes[1]), reader.rest())]
    which = rng.choice((0, 0, 1, 2))
    if which == 0 and rng.randrange(2):
        at = 8 * rng.randrange(len(streams[0]) // 8 + 1)
        streams[0] = streams[0][:at] + struct.pack("<Q", rng.choice(LONG_NUMBERS)) + streams[0][at + 8 :]
    elif not rng.randrange(12):
        streams[which] = bytes(BOMB_BYTES)
    else:
        streams[which] = change_bytes(rng, streams[which])
    return artifact[:DELTA_HEADER_BYTES] + _patch(streams[0], streams[1], streams[2], sizes[2])


def _plain(packed: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(packed, max_length=1 << 16)
    except (OSError, ValueError):
        return packed[: 1 << 12]


def _patch(control: bytes, diff: bytes, extra: bytes, size: int) -> bytes:
    # The lowest level: the others take megabytes of tables for a few bytes.
    packed = [bz2.compress(part, compresslevel=1) if len(part) < BOMB_BYTES else _bomb() for part in (control, diff, extra)]
    return b"BSDIFF40" + struct.pack("<QQQ", len(packed[0]), len(packed[1]), size) + b"".join(packed)


@cache
def _bomb() -> bytes:
    return bz2.compress(bytes(BOMB_BYTES))


def _entry(add: int, copy: int, seek: int) -> bytes:
    return struct.pack("<QQQ", add, copy, seek)
