"""The ``bsdiff4`` delta codec: a standard BSDIFF40 patch between content bytes, read with bounds.

A patch is "BSDIFF40", three little-endian sign-and-magnitude int64 (compressed sizes of control and diff block, size of the
result) and three bzip2 streams: control, diff, extra. A control entry (x, y, z) says: add x bytes of diff to x bytes of the
base, copy y bytes of extra, move z in the base. Stock readers decompress whatever the streams hold and accept seeks outside the
base; here control is at most MAX_ENTRIES entries, and one more than the result has bytes; diff and extra together are at most
the result; every position is checked.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Iterator

import numpy as np

from model_registry.contract.content import ByteReader
from model_registry.contract.errors import LimitExceeded, MalformedArtifact

MAGIC = b"BSDIFF40"
ENTRY_BYTES = 24
MAX_ENTRIES = 1 << 20
STEP = 1 << 16


def decode(base: bytes, payload: bytes, *, size: int) -> bytes:
    """Apply a patch whose result has ``size`` bytes. Raises MalformedArtifact, LimitExceeded."""
    reader = ByteReader(payload)
    if reader.take(8) != MAGIC:
        raise MalformedArtifact("not a BSDIFF40 patch")
    control_size, diff_size, new_size = (_signed(reader.take(8)) for _ in range(3))
    if new_size != size or control_size < 0 or diff_size < 0:
        raise MalformedArtifact(f"the patch makes {new_size} bytes, declared are {size}")
    # bsdiff moves on by a byte with every entry but the first: more entries than that do nothing but take memory.
    control = _inflate(reader.take(control_size), limit=ENTRY_BYTES * min(MAX_ENTRIES, size + 1))
    diff = _inflate(reader.take(diff_size), limit=size)
    extra = _inflate(reader.rest(), limit=size - len(diff))
    return _assemble(base, size, control, ByteReader(diff), ByteReader(extra))


def _assemble(base: bytes, size: int, control: bytearray, diff: ByteReader, extra: ByteReader) -> bytes:
    result, old = bytearray(), 0
    source = np.frombuffer(base, np.uint8)
    for add, copy, seek in _entries(control):
        if add < 0 or copy < 0 or len(result) + add + copy > size:
            raise MalformedArtifact("the patch writes beyond its result")
        if old < 0 or old + add > len(base):
            raise MalformedArtifact("the patch reads outside its base")
        result += (np.frombuffer(diff.take(add), np.uint8) + source[old : old + add]).tobytes()
        result += extra.take(copy)
        old += add + seek
    diff.end()
    extra.end()
    if len(result) != size:
        raise MalformedArtifact(f"the patch gave {len(result)} bytes, declared are {size}")
    return bytes(result)


def _entries(control: bytearray) -> Iterator[tuple[int, int, int]]:
    if len(control) % ENTRY_BYTES:
        raise MalformedArtifact("the patch's control block is cut short")
    for at in range(0, len(control), ENTRY_BYTES):
        add, copy, seek = (_signed(control[at + 8 * i : at + 8 * i + 8]) for i in range(3))
        yield add, copy, seek


def _signed(raw: bytes | bytearray) -> int:
    """bsdiff's integers: 63 bits of magnitude, the top bit is the sign."""
    value = int(struct.unpack("<Q", raw)[0])
    return -(value & (2**63 - 1)) if value >> 63 else value


def _inflate(packed: bytes, *, limit: int) -> bytearray:
    """One bzip2 stream, decompressed in steps so that a bomb costs no more than ``limit`` and one step."""
    decompressor, result, fed = bz2.BZ2Decompressor(), bytearray(), packed
    try:
        while not decompressor.eof:
            piece = decompressor.decompress(fed, max_length=STEP)
            if not piece and decompressor.needs_input:
                raise MalformedArtifact("a bzip2 stream ends too early")
            result += piece
            fed = b""
            if len(result) > limit:
                raise LimitExceeded(f"a bzip2 stream holds more than {limit} bytes")
    except (OSError, ValueError) as exc:
        raise MalformedArtifact(f"a bzip2 stream is unreadable: {exc}") from exc
    if decompressor.unused_data:
        raise MalformedArtifact("bytes follow a bzip2 stream")
    return result
