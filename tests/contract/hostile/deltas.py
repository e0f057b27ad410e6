"""Hostile deltas, with the base they are to be applied to."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Iterator

import numpy as np
import zstandard

from model_registry.contract.codecs.bsdiff import MAX_ENTRIES
from model_registry.contract.codecs.model import dictionary_of, literals_of
from model_registry.contract.codecs.numbers import write_numbers
from model_registry.contract.codecs.pools import Changes
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.delta import Codec
from model_registry.contract.errors import (
    ArtifactRefused,
    ContentMismatch,
    LimitExceeded,
    MalformedArtifact,
    UnsupportedArtifact,
    WrongBase,
)
from model_registry.contract.full import encode_full
from model_registry.deltas import make_delta
from tests.contract.contents import small_network
from tests.contract.hostile.forging import Hostile, coders_told, delta, head, named, zstd_bomb

BASE = small_network()
SIZE = 1000


def hostile_deltas() -> Iterator[Hostile]:
    """Every delta on ``BASE`` that must be refused."""
    yield from _headers()
    yield from _bsdiff()
    yield from _zstd()
    yield from _model()


def _headers() -> Iterator[Hostile]:
    new = small_network(version="1.0.1", seed=2)
    for codec in Codec:
        good = make_delta(BASE, new, codec).data
        yield Hostile(f"{codec}: for another base", make_delta(new, BASE, codec).data, WrongBase)
        yield Hostile(f"{codec}: size 2^63", good[:69] + struct.pack("<Q", 2**63) + good[77:], LimitExceeded)
        yield Hostile(
            f"{codec}: size off by one", good[:69] + struct.pack("<Q", len(new.data) - 1) + good[77:], ArtifactRefused
        )
        yield Hostile(f"{codec}: bytes after the end", good + bytes(4), ArtifactRefused)
        for at in (3, 4, 30, 60, 75, 77, 80, 100, len(good) - 1):
            yield Hostile(f"{codec}: cut at {at}", good[:at], ArtifactRefused)
        other = list(Codec)[(list(Codec).index(codec) + 1) % 3]
        yield Hostile(f"{codec} called {other}", good[:4] + bytes([list(Codec).index(other)]) + good[5:], ArtifactRefused)
    yield Hostile("codec 9", good[:4] + b"\x09" + good[5:], UnsupportedArtifact)
    yield Hostile("a full in the place of a delta", encode_full(new), UnsupportedArtifact)


def _patch(control: bytes, diff: bytes, extra: bytes, *, size: int = SIZE) -> bytes:
    """A BSDIFF40 file of three streams that are compressed already."""
    return b"BSDIFF40" + struct.pack("<qqq", len(control), len(diff), size) + control + diff + extra


def _entry(add: int, copy: int, seek: int) -> bytes:
    return b"".join(struct.pack("<Q", n if n >= 0 else (-n | 1 << 63)) for n in (add, copy, seek))


def _bsdiff() -> Iterator[Hostile]:
    def case(name: str, patch: bytes, refusal: type[ArtifactRefused] = MalformedArtifact, size: int = SIZE) -> Hostile:
        return Hostile(f"bsdiff4: {name}", delta(BASE, Codec.BSDIFF4, patch, size=size), refusal)

    def entries(*control: bytes, diff: int = 0, extra: int = 0) -> bytes:
        return _patch(bz2.compress(b"".join(control)), bz2.compress(bytes(diff)), bz2.compress(bytes(extra)))

    none, bomb, length = bz2.compress(b""), bz2.compress(bytes(1 << 28)), len(BASE.data)
    yield case("another magic", b"BSDIFF41" + bytes(24))
    yield case("cut header", b"BSDIFF40" + bytes(20))
    yield case(
        "negative stream size", b"BSDIFF40" + struct.pack("<qqQ", 10, 0, SIZE)[:8] + b"\xff" * 8 + struct.pack("<Q", SIZE)
    )
    yield case("result of 2^62", _patch(none, none, none, size=2**62))
    yield case("bomb in control", _patch(bomb, none, none), LimitExceeded)
    yield case("bomb in diff", _patch(none, bomb, none), LimitExceeded)
    yield case("bomb in extra", _patch(none, none, bomb), LimitExceeded)
    yield case("too many entries", entries(bytes(24 * (MAX_ENTRIES + 1))), LimitExceeded)
    yield case("more entries than bytes", entries(bytes(24 * (SIZE + 2))), LimitExceeded)
    yield case("half an entry", entries(bytes(30)))
    yield case("negative add", entries(_entry(-5, 0, 0)))
    yield case("negative copy", entries(_entry(0, -5, 0)))
    yield case("seek before the base", entries(_entry(0, 0, -1), _entry(10, 0, 0), diff=10))
    yield case("seek behind the base", entries(_entry(0, 0, length), _entry(1, 0, 0), diff=1))
    yield case("seek by 2^62", entries(_entry(0, 0, 2**62), _entry(1, 0, 0), diff=1))
    yield case("add beyond the result", entries(_entry(SIZE + 1, 0, 0), diff=SIZE))
    yield case("copy beyond the result", entries(_entry(0, SIZE + 1, 0), extra=SIZE))
    yield case("diff too short", entries(_entry(SIZE, 0, 0), diff=SIZE - 1))
    yield case("extra too short", entries(_entry(0, SIZE, 0), extra=SIZE - 1))
    yield case("diff left over", entries(_entry(0, SIZE - 10, 0), diff=10, extra=SIZE - 10))
    yield case("result too short", entries(_entry(10, 0, 0), diff=10))
    yield case("result is no content", entries(_entry(0, SIZE, 0), extra=SIZE), ContentMismatch)
    yield case("control is no bzip2", _patch(b"what is this", none, none))
    yield case("a cut bzip2 stream", _patch(bz2.compress(_entry(0, SIZE, 0))[:-8], none, bz2.compress(bytes(SIZE))))
    yield case("bytes behind a bzip2 stream", _patch(none + b"!", none, none))


def _zstd() -> Iterator[Hostile]:
    def case(name: str, frame: bytes, refusal: type[ArtifactRefused]) -> Hostile:
        return Hostile(f"zstd: {name}", delta(BASE, Codec.ZSTD, frame, size=SIZE), refusal)

    yield case("no frame", b"", MalformedArtifact)
    yield case("noise", b"\x28\xb5\x2f\xfd" + bytes(range(200)), ArtifactRefused)
    yield case("bomb that admits it", zstd_bomb(declared=2**31, blocks=16384), LimitExceeded)
    yield case("bomb that denies it", zstd_bomb(declared=SIZE, blocks=16384), MalformedArtifact)
    yield case("result is no content", zstandard.ZstdCompressor().compress(bytes(SIZE)), ContentMismatch)
    short = zstandard.ZstdCompressor().compress(bytes(SIZE - 1))
    yield case("result too short", short, MalformedArtifact)


def _one_step(size: int, step: int) -> Sink:
    """The first of so many values of one context changes."""
    sink, none = Sink(), np.zeros(1, np.int64)
    sink.changes.append(Changes(size, none + size, none, none + step, none, 1))
    return sink


def _wide_change() -> Sink:
    """One of 320 values in one context changes by more than 16 bits hold."""
    sink = Sink()
    write_numbers(sink.symbols, np.array([2 * 70_000, *[0] * 319]), np.zeros(320, np.int64), 3)
    return sink


def _model() -> Iterator[Hostile]:
    def case(
        name: str,
        tensor_head: bytes,
        coders: bytes,
        data_bytes: int,
        sink: Sink | None = None,
        *,
        refusal: type[ArtifactRefused] = MalformedArtifact,
    ) -> Hostile:
        manifest = BASE.manifest.to_bytes()
        payload = coders_told([tensor_head], coders, sink).pack(
            head(manifest, b"", [tensor_head]), dictionary=dictionary_of(BASE, literals_of(BASE))
        )
        size = 16 + len(manifest) + len(tensor_head) + data_bytes
        return Hostile(f"model: {name}", delta(BASE, Codec.MODEL, payload, size=size), refusal)

    weight = b"conv.weight"
    yield case("values of a tensor that the base lacks", named(b"other", 0, (3,), 0), b"\x03\x10", 12)
    yield case("values of another shape", named(weight, 4, (3,), 32), b"\x10\x10", 131)
    yield case("values of another type", named(weight, 0, (32, 16, 3, 3), 0), b"\x03\x10", 4 * 4608)
    yield case("a scale of another length", named(weight, 4, (32, 16, 3, 3), 31), b"\x10\x10", 4 * 31 + 4608)
    yield case("changes of a tensor that the base lacks", named(b"other", 0, (3,), 0), b"\x03\x20", 12)
    yield case("changes across ranks", named(weight, 4, (32, 144), 32), b"\x10\x20", 128 + 4608)
    yield case("scale changes of another length", named(weight, 4, (32, 16, 3, 3), 31), b"\x20\x10", 4 * 31 + 4608)
    rows = named(b"empty", 1, (2**32 - 1, 0), 0)
    yield case("numbers of changes for 4 billion rows without values", rows, b"\x03\x21", 0, refusal=UnsupportedArtifact)
    yield case("sparse changes of a tensor that the base lacks", named(b"other", 4, (3,), 1), b"\x03\x30", 7)
    yield case("sparse changes across ranks", named(weight, 4, (32, 144), 32), b"\x10\x30", 128 + 4608)
    floats = named(weight, 0, (32, 16, 3, 3), 0)
    yield case("sparse changes of floats", floats, b"\x03\x30", 4 * 4608, refusal=UnsupportedArtifact)
    grid, long = Sink(), Sink()
    grid.blob += bytes(4)
    rows = named(b"empty", 2, (2**32 - 1, 0), 1)
    yield case("moves of 4 billion rows without values", rows, b"\x03\x46", 4, grid, refusal=UnsupportedArtifact)
    write_numbers(long.symbols, np.full(32, 33), np.zeros(32, np.int64), 5)
    yield case("more changes in a row than 32 bits tell", named(weight, 4, (32, 16, 3, 3), 32), b"\x10\x46", 128 + 4608, long)
    yield case("differences of a tensor that the base lacks", named(b"other", 2, (3,), 1), b"\x03\x2e", 7, grid)
    yield case("differences of floats", floats, b"\x03\x2e", 4 * 4608, refusal=UnsupportedArtifact)
    large = named(weight, 4, (32, 16, 3, 3), 32)
    yield case("differences of a large tensor", large, b"\x10\x2e", 128 + 4608, refusal=UnsupportedArtifact)
    out = Sink()
    write_numbers(out.symbols, np.array([2 * 600, *[0] * 31]))
    yield case("a difference beyond the alphabet", named(b"conv.bias", 2, (32,), 1), b"\x10\x2e", 4 + 32, out)
    many, far = Sink(), Sink()
    write_numbers(many.symbols, np.array([4609]), np.array([13]), 21)
    yield case("more sparse changes than values", named(b"conv.bias", 2, (32,), 1), b"\x10\x30", 4 + 32, many)
    write_numbers(far.symbols, np.array([1]), np.array([6]), 21)
    write_numbers(far.symbols, np.array([2**32 - 1]), np.array([4]), 6)
    yield case("a sparse change beyond the values", named(b"conv.bias", 2, (32,), 1), b"\x10\x30", 4 + 32, far)
    octave = Sink()
    octave.blob += b"\x80"
    no_zero = Sink()
    no_zero.blob += struct.pack("<32f", *range(1, 33))
    lacks = named(weight, 4, (32, 16, 3, 3), 32)
    yield case("pruning without a zero", lacks, b"\x03\x3c", 128 + 4608, no_zero, refusal=UnsupportedArtifact)
    step = _one_step(32, 2**16 + 1)
    yield case("a sparse step beyond the alphabet", named(b"conv.bias", 2, (32,), 1), b"\x10\x30", 4 + 32, step)
    step = _one_step(320, 2**17)
    yield case("a sparse step beyond 16 bits", named(b"rows.weight", 3, (8, 40), 8), b"\x10\x30", 4 * 8 + 2 * 320, step)
    wide = Sink()
    write_numbers(wide.symbols, np.array([2 * 70_000, *[0] * 319]))
    yield case("a number beyond 16 bits", named(b"rows.weight", 3, (8, 40), 8), b"\x10\x03", 4 * 8 + 2 * 320, wide)
    yield case("a change beyond 16 bits", named(b"rows.weight", 3, (8, 40), 8), b"\x10\x20", 4 * 8 + 2 * 320, _wide_change())
    yield case("drift of a tensor that the base lacks", named(b"other", 0, (3,), 0), b"\x03\x2c", 12)
    yield case("drift of integers", named(weight, 4, (32, 16, 3, 3), 32), b"\x10\x2c", 128 + 4608)
    yield case("drift of nothing", named(b"full.weight", 0, (0, 30), 0), b"\x03\x2c", 0)
    yield case("a mapping to floats", named(weight, 0, (32, 16, 3, 3), 0), b"\x03\x2d", 4 * 4608)
    yield case("a mapping of another shape", named(weight, 4, (32, 144), 32), b"\x10\x2d", 128 + 4608)
    yield case("a mapping from nothing", named(b"other", 4, (3,), 0), b"\x03\x2d", 3)
    yield case("scale drift of another length", named(weight, 4, (32, 16, 3, 3), 31), b"\x22\x10", 4 * 31 + 4608)
    yield case("a doubled scale of another length", named(weight, 4, (32, 16, 3, 3), 31), b"\x25\x10", 4 * 31 + 4608, octave)
    yield case("a doubled scale of a tensor that the base lacks", named(b"other", 4, (3,), 1), b"\x25\x00", 7, octave)
    yield case("scale steps of another length", named(weight, 4, (32, 16, 3, 3), 31), b"\x24\x10", 4 * 31 + 4608)
    beyond = Sink()
    write_numbers(beyond.symbols, np.array([2 * 641, *[0] * 9]))
    yield case("a spread out of range", named(b"full.weight", 0, (10, 30), 0), b"\x03\x2c", 1200, beyond)
    steps = named(b"conv.weight", 2, (32, 16, 3, 3), 3)
    yield case("three steps for 32 rows", steps, b"\x03\x26", 12 + 4608)
    yield case("no step at all", named(weight, 2, (32, 16, 3, 3), 0), b"\x03\x26", 4608)
    smaller = Sink()
    smaller.blob += bytes(4)
    yield case("old indices beyond a new codebook", named(weight, 4, (32, 16, 3, 3), 1), b"\x03\x10", 4 + 4608, smaller)
