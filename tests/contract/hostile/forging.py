"""Artifacts put together by hand, so that every single part of them can be wrong."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from model_registry.contract.codecs.heads import write_coders
from model_registry.contract.codecs.sections import ZSTD_MAGIC, Sink, short_length
from model_registry.contract.content import Content, tensor_head
from model_registry.contract.delta import Codec, DeltaHeader
from model_registry.contract.errors import Refusal
from model_registry.contract.full import MAGIC


@dataclass(frozen=True)
class Hostile:
    """One bad file; ``refusal`` is the class that a reader must answer with."""

    name: str
    data: bytes
    refusal: type[Refusal]


def full(payload: bytes, *, size: int, sha256: str = "00" * 32) -> bytes:
    return MAGIC + bytes.fromhex(sha256) + struct.pack("<Q", size) + payload


def delta(base: Content, codec: Codec, payload: bytes, *, size: int, sha256: str = "00" * 32) -> bytes:
    return DeltaHeader(codec, base.sha256, sha256, size).to_bytes() + payload


def head(manifest: bytes, graph: bytes, tensors: Sequence[bytes]) -> bytes:
    """An outline; ``tensors`` are tensor heads with their scale counts, and with offsets, which it leaves out."""
    parts = [struct.pack("<I", len(manifest)), manifest, struct.pack("<I", len(graph)), graph]
    return b"".join([*parts, struct.pack("<I", len(tensors)), *(_split(tensor)[0] for tensor in tensors)])


def coders_told(tensors: Sequence[bytes], coders: bytes, sink: Sink | None = None) -> Sink:
    """What tells the ``coders`` of each of these, scale, values and offsets, before what is in ``sink``."""
    whole, rows = Sink(), list[bytes]()
    counts = [_split(tensor)[1] for tensor in tensors]
    for count in counts:
        rows.append(coders[: 2 + count])
        coders = coders[2 + count :]
    write_coders(whole.symbols, counts, rows)
    whole.extend(sink or Sink())
    return whole


def _split(tensor: bytes) -> tuple[bytes, int]:
    """Without its offsets, and how many it has."""
    at = 2 + struct.unpack("<H", tensor[:2])[0]
    offsets, encoding = divmod(tensor[at], 64)
    return tensor[:at] + bytes([encoding]) + tensor[at + 1 :], offsets


def named(name: bytes, encoding: int, shape: tuple[int, ...], scale_count: int) -> bytes:
    """A tensor head with its scale count, not checked for anything."""
    return struct.pack(f"<H{len(name)}sBB{len(shape)}II", len(name), name, encoding, len(shape), *shape, scale_count)


def model_full(
    manifest: bytes,
    graph: bytes,
    tensors: Sequence[bytes],
    coders: bytes,
    *,
    size: int,
    blob: bytes = b"",
    sha256: str = "00" * 32,
) -> bytes:
    sink = coders_told(tensors, coders)
    sink.blob += blob
    return full(sink.pack(head(manifest, graph, tensors)), size=size, sha256=sha256)


def raw_full(content: Content, *, manifest: bytes | None = None) -> bytes:
    """A content whose tensors are stored raw: no coder in the way of what is wrong with it."""
    manifest = content.manifest.to_bytes() if manifest is None else manifest
    tensors = [tensor_head(t.name, t.encoding, t.shape, offsets=0) + struct.pack("<I", t.scale.size) for t in content.tensors]
    numbers = [t.scale.astype("<f4").tobytes() + t.values.tobytes() for t in content.tensors]
    body = b"".join(own + data for own, data in zip(tensors, numbers, strict=True))
    data = b"DFC1" + head(manifest, content.graph, [])[:-4] + struct.pack("<I", len(tensors)) + body
    digest = hashlib.sha256(data).hexdigest()
    coders = bytes([3, 0] * len(tensors))
    return model_full(manifest, content.graph, tensors, coders, size=len(data), blob=b"".join(numbers), sha256=digest)


def zstd_bomb(*, declared: int, blocks: int) -> bytes:
    """A frame that says it holds ``declared`` bytes and holds blocks x 128 KiB of zeros."""
    repeated = struct.pack("<I", (128 * 1024 << 3) | 2)[:3] + b"\0"
    last = struct.pack("<I", (128 * 1024 << 3) | 2 | 1)[:3] + b"\0"
    return bytes.fromhex("28b52ffd") + b"\xa0" + struct.pack("<I", declared) + repeated * (blocks - 1) + last


def payload(frame: bytes, blob: bytes = b"", words: bytes = b"") -> bytes:
    frame = frame.removeprefix(ZSTD_MAGIC)
    return short_length(len(frame)) + frame + short_length(len(blob)) + blob + words
