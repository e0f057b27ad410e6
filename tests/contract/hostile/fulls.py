"""Hostile full artifacts."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import zstandard

from model_registry.contract.canonical import canonical_json
from model_registry.contract.codecs.sections import Sink, short_length
from model_registry.contract.errors import (
    ArtifactRefused,
    ContentMismatch,
    LimitExceeded,
    MalformedArtifact,
    ManifestRefused,
    UnsupportedArtifact,
)
from model_registry.contract.full import FIRST_MAGIC, encode_full
from model_registry.contract.tensors import Encoding
from tests.contract.contents import content, manifest, small_network, tensor
from tests.contract.hostile.forging import Hostile, coders_told, full, head, model_full, named, payload, raw_full, zstd_bomb

MANIFEST = manifest().to_bytes()


def hostile_fulls() -> Iterator[Hostile]:
    """Every full artifact that must be refused."""
    yield from _headers()
    yield from _payloads()
    yield from _heads()
    yield from _tensors()
    yield from _manifests()
    yield from _first_form()


def _headers() -> Iterator[Hostile]:
    good = encode_full(small_network())
    yield Hostile("empty", b"", MalformedArtifact)
    yield Hostile("another kind", b"PK\3\4" + good[4:], UnsupportedArtifact)
    yield Hostile("a delta in the place of a full", b"DFD1" + good[4:], UnsupportedArtifact)
    yield Hostile("size 2^63", good[:36] + struct.pack("<Q", 2**63) + good[44:], LimitExceeded)
    yield Hostile(
        "size off by one", good[:36] + struct.pack("<Q", len(small_network().data) + 1) + good[44:], MalformedArtifact
    )
    yield Hostile("another content's digest", good[:4] + bytes(32) + good[36:], ContentMismatch)
    for name, at in {"magic": 2, "digest": 20, "size": 40, "head length": 46, "head": 60, "end": len(good) - 1}.items():
        yield Hostile(f"cut within {name}", good[:at], ArtifactRefused)
    yield Hostile("bytes after the end", good + bytes(4), ArtifactRefused)


def _payloads() -> Iterator[Hostile]:
    yield Hostile("head length beyond the file", full(short_length(2**32 - 1) + bytes(20), size=100), ArtifactRefused)
    yield Hostile("head length beyond 32 bits", full(short_length(2**32) + bytes(20), size=100), MalformedArtifact)
    yield Hostile("head length of six bytes", full(b"\x80" * 5 + bytes(20), size=100), MalformedArtifact)
    yield Hostile("head length with a byte too many", full(b"\x94\0" + bytes(20), size=100), MalformedArtifact)
    yield Hostile("head is no zstd", full(payload(b"not zstd at all"), size=100), MalformedArtifact)
    bomb = zstd_bomb(declared=2**31, blocks=16384)
    yield Hostile("zstd bomb that admits it", full(payload(bomb), size=1000), LimitExceeded)
    yield Hostile(
        "zstd bomb that denies it", full(payload(zstd_bomb(declared=100, blocks=16384)), size=1000), MalformedArtifact
    )
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    yield Hostile("zstd frame that says nothing", full(payload(silent), size=2000), MalformedArtifact)
    empty = head(MANIFEST, b"", [])
    frame, size = zstandard.ZstdCompressor().compress(empty), 4 + len(empty)
    yield Hostile("bytes left in the blob", full(payload(frame, b"x"), size=size), MalformedArtifact)
    yield Hostile("words left in the stream", full(payload(frame, b"", b"\1\0\0\0"), size=size), MalformedArtifact)
    yield Hostile("half a word", full(payload(frame, b"", b"\1\0"), size=size), MalformedArtifact)
    yield Hostile("two zstd frames", full(payload(frame + frame), size=size), MalformedArtifact)


def _heads() -> Iterator[Hostile]:
    def one(tensor_head: bytes, coders: bytes = b"\x03\x00", size: int = 10_000) -> bytes:
        return model_full(MANIFEST, b"", [tensor_head], coders, size=size)

    count = head(MANIFEST, b"", [])[:-4] + struct.pack("<I", 2**32 - 1)
    yield Hostile("4 billion tensors", full(Sink().pack(count), size=10_000), LimitExceeded)
    yield Hostile("unknown encoding", one(named(b"w", 77, (1,), 0)), UnsupportedArtifact)
    yield Hostile("nine dimensions", one(named(b"w", 0, (1,) * 9, 0)), MalformedArtifact)
    yield Hostile("a name that is no text", one(named(b"\xff\xfe", 0, (1,), 0)), MalformedArtifact)
    yield Hostile("2^256 values", one(named(b"w", 0, (2**32 - 1,) * 8, 0)), MalformedArtifact)
    # numpy has no array of this shape, though it would be empty.
    for sides in ((2**32 - 1, 2**32 - 1, 2**32 - 1, 0), (0, 1, 2**24, 2**24)):
        hollow = named(b"w", 0, sides, 0)
        yield Hostile(f"nothing of {sides}", one(hollow, size=16 + len(MANIFEST) + len(hollow)), MalformedArtifact)
    yield Hostile("4 billion steps", one(named(b"w", 2, (1,), 2**32 - 1)), MalformedArtifact)
    shapes = named(b"w", 0, (2**27,), 0)
    size = 16 + len(MANIFEST) + len(shapes) + 2**29
    yield Hostile("half a gigabyte of values above the limit", one(shapes, size=size), LimitExceeded)
    more = full(Sink().pack(head(MANIFEST, b"", []) + b"xx"), size=18 + len(MANIFEST))
    yield Hostile("a head with more than it says", more, ArtifactRefused)


def _tensors() -> Iterator[Hostile]:
    def coded(tensor_head: bytes, coders: bytes, data_bytes: int, blob: bytes = b"") -> bytes:
        size = 16 + len(MANIFEST) + len(tensor_head) + data_bytes
        return model_full(MANIFEST, b"", [tensor_head], coders, size=size, blob=blob)

    float_head, codebook = named(b"w", 0, (4,), 0), named(b"w", 4, (4,), 2)
    yield Hostile("unknown value coder", coded(float_head, b"\x03\x63", 16), UnsupportedArtifact)
    yield Hostile("unknown scale coder", coded(codebook, b"\x63\x00", 12), UnsupportedArtifact)
    yield Hostile("a coder for another encoding", coded(float_head, b"\x03\x03", 16), UnsupportedArtifact)
    yield Hostile("the base's values without a base", coded(float_head, b"\x03\x10", 16), MalformedArtifact)
    yield Hostile("the base's scale without a base", coded(codebook, b"\x10\x00", 12, bytes(4)), MalformedArtifact)
    yield Hostile("changes without a base", coded(float_head, b"\x03\x20", 16), MalformedArtifact)
    yield Hostile("fewer values than the shape", coded(float_head, b"\x03\x00", 16, bytes(12)), MalformedArtifact)
    yield Hostile("index beyond the codebook", coded(codebook, b"\x03\x00", 12, bytes(8) + b"\0\1\2\3"), MalformedArtifact)
    yield Hostile("codebook without entries", coded(named(b"w", 4, (4,), 0), b"\x03\x02", 4), MalformedArtifact)
    yield Hostile("codebook of 300", coded(named(b"w", 4, (4,), 300), b"\x03\x02", 1204, bytes(1200)), MalformedArtifact)
    yield Hostile("three steps for four rows", coded(named(b"w", 2, (4,), 3), b"\x03\x00", 16, bytes(16)), MalformedArtifact)
    yield Hostile("floats with a step", coded(named(b"w", 0, (1,), 1), b"\x03\x00", 8, bytes(8)), MalformedArtifact)
    shifted, twice_shifted = named(b"w", 2 + 64, (2, 2), 1), named(b"w", 2 + 128, (2, 2), 1)
    yield Hostile("three offsets a row", coded(named(b"w", 2 + 192, (2, 2), 1), b"\3\0\3\3\3", 32), MalformedArtifact)
    yield Hostile("floats with offsets", coded(named(b"w", 64, (2,), 0), b"\3\0\3", 16, bytes(16)), MalformedArtifact)
    yield Hostile("offsets for no rows", coded(named(b"w", 2 + 64, (0, 2), 1), b"\3\0\3", 4, bytes(4)), MalformedArtifact)
    yield Hostile("unknown offset coder", coded(shifted, b"\3\0\x63", 16, bytes(16)), UnsupportedArtifact)
    yield Hostile("a coder for one of two offsets", coded(twice_shifted, b"\3\0\3", 24, bytes(24)), ArtifactRefused)
    yield Hostile("fewer offsets than rows", coded(shifted, b"\3\0\3", 16, bytes(12)), MalformedArtifact)
    inside = head(MANIFEST, b"", [shifted]).replace(b"\1\0w\2", b"\1\0w\x42")
    sink = coders_told([shifted], b"\3\0\3")
    sink.blob += bytes(16)
    twice_told = full(sink.pack(inside), size=16 + len(MANIFEST) + len(shifted) + 16)
    yield Hostile("offsets in a tensor's head", twice_told, MalformedArtifact)
    billions = named(b"w", 2 + 128, (2**32 - 1, 0), 1)
    yield Hostile("offsets of 4 billion rows", coded(billions, b"\3\0\3\3", 4, bytes(4)), MalformedArtifact)
    yield Hostile("a nameless tensor", coded(named(b"", 0, (1,), 0), b"\x03\x00", 4, bytes(4)), MalformedArtifact)
    yield Hostile("a name of 300 bytes", coded(named(b"w" * 300, 0, (1,), 0), b"\x03\x00", 4, bytes(4)), MalformedArtifact)
    bomb = zstd_bomb(declared=2**30, blocks=8192)
    inner = struct.pack("<I", len(bomb)) + bomb
    yield Hostile("zstd bomb in a tensor", coded(float_head, b"\x03\x01", 16, inner), LimitExceeded)
    frame = zstandard.ZstdCompressor().compress(bytes(8))
    yield Hostile(
        "zstd tensor too short", coded(float_head, b"\x03\x01", 16, struct.pack("<I", len(frame)) + frame), MalformedArtifact
    )
    twice = content(tensor("w", Encoding.FLOAT32, np.zeros(2)), tensor("v", Encoding.FLOAT32, np.zeros(2)))
    object.__setattr__(twice.tensors[1], "name", "w")
    yield Hostile("two tensors with one name", raw_full(twice), MalformedArtifact)


def _first_form() -> Iterator[Hostile]:
    """Which is read for ever: whole frames, u32 lengths, coder numbers and offsets in the head."""

    def block(data: bytes) -> bytes:
        return struct.pack("<I", len(data)) + data

    def first(payload: bytes, size: int) -> bytes:
        return FIRST_MAGIC + bytes(32) + struct.pack("<Q", size) + payload

    def coded(tensor_head: bytes, coders: bytes, data_bytes: int, blob: bytes = b"", words: bytes = b"") -> bytes:
        whole = block(MANIFEST) + block(b"") + struct.pack("<I", 1) + tensor_head + coders
        frame = zstandard.ZstdCompressor().compress(whole)
        return first(block(frame) + block(blob) + words, 16 + len(MANIFEST) + len(tensor_head) + data_bytes)

    def hostile(name: str, data: bytes, refusal: type[ArtifactRefused] = MalformedArtifact) -> Hostile:
        return Hostile(f"first form: {name}", data, refusal)

    floats, shifted = named(b"w", 0, (4,), 0), named(b"w", 2 + 64, (2, 2), 1)
    good = coded(floats, b"\3\0", 16, bytes(16))
    yield hostile("another content's digest", good, ContentMismatch)
    yield hostile("cut within the head", good[:60], ArtifactRefused)
    yield hostile("a payload of the second form", FIRST_MAGIC + encode_full(small_network())[4:], ArtifactRefused)
    yield hostile("head length beyond the file", first(struct.pack("<I", 2**32 - 1) + bytes(20), 100), ArtifactRefused)
    yield hostile("head is no zstd", first(block(b"not zstd at all") + block(b""), 100))
    yield hostile("zstd bomb", first(block(zstd_bomb(declared=2**31, blocks=16384)) + block(b""), 1000), LimitExceeded)
    yield hostile("a head with more than it says", coded(floats, b"\3\0xx", 16, bytes(16)))
    yield hostile("bytes left in the blob", coded(floats, b"\3\0", 16, bytes(17)))
    yield hostile("words left in the stream", coded(floats, b"\3\0", 16, bytes(16), b"\1\0\0\0"))
    yield hostile("unknown value coder", coded(floats, b"\3\x63", 16), UnsupportedArtifact)
    yield hostile("another size than declared", coded(floats, b"\3\0", 17, bytes(16)))
    yield hostile("three offsets a row", coded(named(b"w", 2 + 192, (2, 2), 1), b"\3\0\3\3\3", 32), UnsupportedArtifact)
    yield hostile("a coder too few for an offset", coded(shifted, b"\3\0", 16, bytes(16)))
    yield hostile("fewer offsets than rows", coded(shifted, b"\3\0\3", 16, bytes(12)))


def _manifests() -> Iterator[Hostile]:
    plain = manifest().to_json()

    def with_manifest(data: bytes) -> bytes:
        return raw_full(content(), manifest=data)

    yield Hostile("manifest is no JSON", with_manifest(b"{"), ManifestRefused)
    yield Hostile("manifest is a list", with_manifest(b"[]"), ManifestRefused)
    yield Hostile("manifest nested too deep", with_manifest(b"[" * 100_000), ManifestRefused)
    yield Hostile("manifest with a huge number", with_manifest(b'{"format":' + b"9" * 5000 + b"}"), ManifestRefused)
    yield Hostile("manifest with spaces", with_manifest(canonical_json(plain) + b" "), ManifestRefused)
    yield Hostile("manifest with a key twice", with_manifest(b'{"format":1,"format":1}'), ManifestRefused)
    yield Hostile("manifest with an unknown field", with_manifest(canonical_json(plain | {"run": "sh"})), ManifestRefused)
    yield Hostile("manifest of a later format", with_manifest(canonical_json(plain | {"format": 2})), ManifestRefused)
    yield Hostile("manifest with a path as family", with_manifest(canonical_json(plain | {"family": "../x"})), ManifestRefused)
    labels = canonical_json(plain).replace(b'"stop"', b'"\\ud800"')
    yield Hostile("manifest with a lone surrogate", with_manifest(labels), ManifestRefused)
    for name, value in {"1e999": b"1e999", "deep nesting": b"[" * 900 + b"]" * 900}.items():
        recipe = canonical_json(plain).replace(b'"recipe":{}', b'"recipe":{"x":' + value + b"}")
        yield Hostile(f"recipe with {name}", with_manifest(recipe), ManifestRefused)
    yield Hostile("manifest above its limit", with_manifest(b" " * (2 << 20)), LimitExceeded)
