"""A delta artifact (.dfd): a content in the fewest bytes for a reader that has another content, the base.

    "DFD2" | u8 codec | 32 bytes SHA-256 of the base | 32 bytes SHA-256 of the content | u64 size of the content | payload

The codecs share this frame: ``model`` (codecs/model.py) goes tensor by tensor, ``bsdiff4`` and ``zstd`` take contents as bytes.
In files that begin with "DFD1", which are read and no longer made, ``model`` has its first form.
Decoding is bounded by the declared size, which is checked against the limits first, and ends with the digest.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import StrEnum

from model_registry.contract.codecs import bsdiff, model, zstd
from model_registry.contract.codecs.heads import require_digest
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.errors import LimitExceeded, UnsupportedArtifact, WrongBase
from model_registry.contract.limits import DEFAULT_LIMITS, Limits

MAGIC, FIRST_MAGIC = b"DFD2", b"DFD1"
HEADER_BYTES = 77


class Codec(StrEnum):
    """How a delta is coded. The order is that of the codec numbers in the header."""

    MODEL = "model"
    BSDIFF4 = "bsdiff4"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class DeltaHeader:
    """What a delta says before anything in it is decoded; ``first``: whether it is of the first form."""

    codec: Codec
    base_sha256: str
    content_sha256: str
    content_bytes: int
    first: bool = False

    def to_bytes(self) -> bytes:
        digests = bytes.fromhex(self.base_sha256) + bytes.fromhex(self.content_sha256)
        magic = FIRST_MAGIC if self.first else MAGIC
        return magic + bytes([list(Codec).index(self.codec)]) + digests + struct.pack("<Q", self.content_bytes)


def begins_delta(data: bytes) -> bool:
    """Whether these are the first bytes of a delta."""
    return data.startswith((MAGIC, FIRST_MAGIC))


def read_delta_header(data: bytes) -> DeltaHeader:
    """The header alone. Raises UnsupportedArtifact when this is no delta, MalformedArtifact when it is cut short."""
    return _read_header(ByteReader(data[:HEADER_BYTES]))


def _read_header(reader: ByteReader) -> DeltaHeader:
    magic = reader.take(4)
    if not begins_delta(magic):
        raise UnsupportedArtifact("not a delta artifact (.dfd): the first bytes are wrong")
    code = reader.number("B")
    if code >= len(Codec):
        raise UnsupportedArtifact(f"unknown delta codec {code}", remedy="update this program")
    digests = reader.take(32).hex(), reader.take(32).hex()
    return DeltaHeader(list(Codec)[code], *digests, reader.number("Q"), first=magic == FIRST_MAGIC)


def apply_delta(base: Content, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Content:
    """The content that a delta makes of ``base``.

    Raises WrongBase, LimitExceeded, MalformedArtifact, UnsupportedArtifact, ContentMismatch, ManifestRefused.
    """
    if len(data) > limits.max_artifact_bytes:
        raise LimitExceeded(f"an artifact of {len(data)} bytes is above the limit of {limits.max_artifact_bytes}")
    reader = ByteReader(data)
    header = _read_header(reader)
    if header.base_sha256 != base.sha256:
        raise WrongBase(
            f"the delta starts from the content {header.base_sha256[:16]}..., this is {base.sha256[:16]}...",
            remedy="take the delta made for this content, or the full artifact",
        )
    if header.content_bytes > limits.max_content_bytes:
        raise LimitExceeded(f"a content of {header.content_bytes} bytes is above the limit of {limits.max_content_bytes}")
    return _decode(base, header, reader.rest(), limits)


def _decode(base: Content, header: DeltaHeader, payload: bytes, limits: Limits) -> Content:
    match header.codec:
        case Codec.MODEL:
            decode = model.decode_first if header.first else model.decode
            return decode(base, payload, size=header.content_bytes, sha256=header.content_sha256, limits=limits)
        case Codec.BSDIFF4:
            data = bsdiff.decode(base.data, payload, size=header.content_bytes)
        case Codec.ZSTD:
            data = zstd.decode(base.data, payload, size=header.content_bytes)
    require_digest(hashlib.sha256(data).hexdigest(), header.content_sha256)
    return Content.from_data(data, limits)
