"""A full artifact (.dfm): a content in the fewest bytes, on its own.

    "DFM2" | 32 bytes SHA-256 of the content | u64 size of the content | payload (codecs/model.py)

Encoding is deterministic. Decoding is bounded by the declared content size, which is checked against the limits first, and
ends with the comparison of the content's digest. Files that begin with "DFM1", with a payload of the first form, are read and
no longer made. docs/container-format.md has every byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from model_registry.contract.codecs import model
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.errors import LimitExceeded, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS, Limits

MAGIC, FIRST_MAGIC = b"DFM2", b"DFM1"
HEADER_BYTES = 44


@dataclass(frozen=True, slots=True)
class FullHeader:
    """What a full artifact says before anything in it is decoded; ``first``: whether it is of the first form."""

    content_sha256: str
    content_bytes: int
    first: bool = False


def begins_full(data: bytes) -> bool:
    """Whether these are the first bytes of a full artifact."""
    return data.startswith((MAGIC, FIRST_MAGIC))


def read_full_header(data: bytes) -> FullHeader:
    """The header alone. Raises UnsupportedArtifact when this is no full artifact, MalformedArtifact when it is cut short."""
    return _read_header(ByteReader(data[:HEADER_BYTES]))


def _read_header(reader: ByteReader) -> FullHeader:
    magic = reader.take(4)
    if not begins_full(magic):
        raise UnsupportedArtifact("not a full artifact (.dfm): the first bytes are wrong")
    return FullHeader(reader.take(32).hex(), reader.number("Q"), first=magic == FIRST_MAGIC)


def encode_full(content: Content) -> bytes:
    """The artifact's bytes; the same for the same content, always."""
    header = MAGIC + bytes.fromhex(content.sha256) + struct.pack("<Q", len(content.data))
    return header + model.encode(None, content)


def decode_full(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Content:
    """The content of an artifact. Raises ArtifactRefused or ManifestRefused; memory is bounded by ``limits``."""
    if len(data) > limits.max_artifact_bytes:
        raise LimitExceeded(f"an artifact of {len(data)} bytes is above the limit of {limits.max_artifact_bytes}")
    reader = ByteReader(data)
    header = _read_header(reader)
    if header.content_bytes > limits.max_content_bytes:
        raise LimitExceeded(f"a content of {header.content_bytes} bytes is above the limit of {limits.max_content_bytes}")
    decode = model.decode_first if header.first else model.decode
    return decode(None, reader.rest(), size=header.content_bytes, sha256=header.content_sha256, limits=limits)
