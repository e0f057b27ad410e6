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
from model_registry.contract.codecs.sections import compress, decompress
from model_registry.contract.content import ByteReader, Content, content_parts
from model_registry.contract.delta import HEADER_BYTES as DELTA_HEADER_BYTES
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.errors import Refusal
from model_registry.contract.full import HEADER_BYTES as FULL_HEADER_BYTES
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

    def pack(self) -> bytes:
        frame = compress(self.head, level=1, dictionary=self.dictionary)
        sizes = struct.pack("<I", len(frame)), struct.pack("<I", len(self.blob))
        return b"".join([self.header, sizes[0], frame, sizes[1], self.blob, self.words])

    def sized(self, content_bytes: int) -> Parts:
        return replace(self, header=self.header[:-8] + struct.pack("<Q", content_bytes & (2**64 - 1)))


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
    is_delta = artifact[:3] == b"DFD"
    dictionary = ContentHead.of(bases.of(artifact)).to_bytes() if is_delta else b""
    reader = ByteReader(artifact)
    header = reader.take(DELTA_HEADER_BYTES if is_delta else FULL_HEADER_BYTES)
    frame = reader.block("I", len(artifact))
    blob = reader.block("I", len(artifact))
    head = decompress(frame, max_bytes=bases.limits.max_content_bytes, dictionary=dictionary)
    return Parts(header, head, blob, reader.rest(), dictionary)


def _model(rng: random.Random, artifact: bytes, bases: Bases) -> bytes:
    parts = unpack(artifact, bases)
    match rng.randrange(8):
        case 0:
            return replace(parts, head=change_bytes(rng, parts.head)).pack()
        case 1 | 2 | 3:
            parts = _with_head(rng, parts)
        case 4:
            return replace(parts, blob=change_bytes(rng, parts.blob)).pack()
        case 5:
            words = change_bytes(rng, parts.words)
            return replace(parts, words=words[: len(words) // 4 * 4]).pack()
        case 6:
            return replace(parts, words=exchanged(rng, lambda: bases.decode(artifact))).pack()
        case _:
            return _sealed(rng, artifact, parts, bases)
    if rng.randrange(2):
        return parts.pack()
    forged = parts.pack()
    return replace(parts, words=invented(rng, lambda: bases.decode(forged))).pack()


def _with_head(rng: random.Random, parts: Parts) -> Parts:
    """Other tensors, other coders; the declared size fits what the head adds up to, and the blob what may be asked of it."""
    head = change_head(rng, LooseHead.read(parts.head))
    blob = parts.blob + rng.randbytes(rng.choice((0, 0, 4, 400)))
    return replace(parts, head=head.to_bytes(), blob=blob).sized(head.content_bytes)


def _sealed(rng: random.Random, artifact: bytes, parts: Parts, bases: Bases) -> bytes:
    """Another manifest or graph under a digest that fits: what nobody but the holder of a key could offer."""
    tensors = bases.decode(artifact).tensors
    head = LooseHead.read(parts.head)
    if rng.randrange(4):
        head = replace(head, manifest=change_bytes(rng, head.manifest))
    else:
        head = replace(head, graph=change_bytes(rng, head.graph))
    digest = hashlib.sha256(b"".join(content_parts(head.manifest, head.graph, tensors))).digest()
    header = parts.header[:-40] + digest + parts.header[-8:]
    return replace(parts, header=header, head=head.to_bytes()).sized(head.content_bytes).pack()


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
