"""Artifacts put together by hand, so that every single part of them can be wrong."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from model_registry.contract.codecs.heads import ContentHead
from model_registry.contract.codecs.sections import Sink
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


def head(manifest: bytes, graph: bytes, tensors: Sequence[bytes], coders: bytes) -> bytes:
    """A decompressed head; ``tensors`` are tensor heads with their scale counts."""
    parts = [struct.pack("<I", len(manifest)), manifest, struct.pack("<I", len(graph)), graph]
    return b"".join([*parts, struct.pack("<I", len(tensors)), *tensors, coders])


def named(name: bytes, encoding: int, shape: tuple[int, ...], scale_count: int) -> bytes:
    """A tensor head with its scale count, not checked for anything."""
    return struct.pack(f"<H{len(name)}sBB{len(shape)}II", len(name), name, encoding, len(shape), *shape, scale_count)


def model_full(head_bytes: bytes, *, size: int, blob: bytes = b"", sha256: str = "00" * 32) -> bytes:
    sink = Sink()
    sink.blob += blob
    return full(sink.pack(head_bytes), size=size, sha256=sha256)


def raw_full(content: Content, *, manifest: bytes | None = None) -> bytes:
    """A content whose tensors are stored raw: no coder in the way of what is wrong with it."""
    manifest = content.manifest.to_bytes() if manifest is None else manifest
    tensors = [tensor_head(t.name, t.encoding, t.shape, offsets=0) + struct.pack("<I", t.scale.size) for t in content.tensors]
    body = b"".join(
        head + t.scale.astype("<f4").tobytes() + t.values.tobytes() for head, t in zip(tensors, content.tensors, strict=True)
    )
    data = b"DFC1" + head(manifest, content.graph, [], b"")[:-4] + struct.pack("<I", len(tensors)) + body
    blob = b"".join(t.scale.astype("<f4").tobytes() + t.values.tobytes() for t in content.tensors)
    head_bytes = head(manifest, content.graph, tensors, bytes([3, 0] * len(tensors)))
    return model_full(head_bytes, size=len(data), blob=blob, sha256=hashlib.sha256(data).hexdigest())


def zstd_bomb(*, declared: int, blocks: int) -> bytes:
    """A frame that says it holds ``declared`` bytes and holds blocks x 128 KiB of zeros."""
    repeated = struct.pack("<I", (128 * 1024 << 3) | 2)[:3] + b"\0"
    last = struct.pack("<I", (128 * 1024 << 3) | 2 | 1)[:3] + b"\0"
    return bytes.fromhex("28b52ffd") + b"\xa0" + struct.pack("<I", declared) + repeated * (blocks - 1) + last


def head_of(content: Content) -> bytes:
    return ContentHead.of(content).to_bytes()
