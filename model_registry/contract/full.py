"""A full artifact (.dfm): a content in the fewest bytes, on its own.

    "DFM1" | 32 bytes SHA-256 of the content | u64 size of the content | payload (codecs/sections.py)

Encoding is deterministic. Decoding is bounded by the declared content size, which is checked against the limits first, and
ends with the comparison of the content's digest. docs/container-format.md has every byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from model_registry.contract.codecs.heads import ContentHead, TensorHead, max_head_bytes
from model_registry.contract.codecs.sections import Sink, Source, unpack
from model_registry.contract.codecs.values import decode_scale, decode_values, encode_scale, encode_values
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.errors import LimitExceeded, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS, Limits
from model_registry.contract.tensors import EncodedTensor

MAGIC = b"DFM1"


@dataclass(frozen=True, slots=True)
class FullHeader:
    """What a full artifact says before anything in it is decoded."""

    content_sha256: str
    content_bytes: int


def read_full_header(data: bytes) -> FullHeader:
    """The header alone. Raises UnsupportedArtifact when this is no full artifact, MalformedArtifact when it is cut short."""
    return _read_header(ByteReader(data[:44]))


def _read_header(reader: ByteReader) -> FullHeader:
    if reader.take(4) != MAGIC:
        raise UnsupportedArtifact("not a full artifact (.dfm): the first bytes are wrong")
    return FullHeader(reader.take(32).hex(), reader.number("Q"))


def encode_full(content: Content) -> bytes:
    """The artifact's bytes; the same for the same content, always."""
    sink, coders = Sink(), bytearray()
    for tensor in content.tensors:
        coders += encode_tensor(tensor, sink)
    header = MAGIC + bytes.fromhex(content.sha256) + struct.pack("<Q", len(content.data))
    return header + sink.pack(ContentHead.of(content).to_bytes() + coders)


def encode_tensor(tensor: EncodedTensor, sink: Sink) -> bytes:
    """Code one tensor on its own; the two coder numbers, of scale and values, go into the head."""
    scale_coder, scale = encode_scale(tensor.scale)
    value_coder, values = encode_values(tensor)
    sink.extend(scale)
    sink.extend(values)
    return bytes([scale_coder, value_coder])


def decode_full(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Content:
    """The content of an artifact. Raises ArtifactRefused or ManifestRefused; memory is bounded by ``limits``."""
    if len(data) > limits.max_artifact_bytes:
        raise LimitExceeded(f"an artifact of {len(data)} bytes is above the limit of {limits.max_artifact_bytes}")
    reader = ByteReader(data)
    header = _read_header(reader)
    if header.content_bytes > limits.max_content_bytes:
        raise LimitExceeded(f"a content of {header.content_bytes} bytes is above the limit of {limits.max_content_bytes}")
    head_bytes, source = unpack(reader.rest(), max_head_bytes=max_head_bytes(header.content_bytes, limits))
    head_reader = ByteReader(head_bytes)
    head = ContentHead.read(head_reader, content_bytes=header.content_bytes, limits=limits)
    coders = [(head_reader.number("B"), head_reader.number("B")) for _ in head.tensors]
    head_reader.end()
    tensors = [decode_tensor(t, scale, values, source) for t, (scale, values) in zip(head.tensors, coders, strict=True)]
    source.end()
    return head.content(tensors, sha256=header.content_sha256)


def decode_tensor(head: TensorHead, scale_coder: int, value_coder: int, source: Source) -> EncodedTensor:
    """The inverse of ``encode_tensor``."""
    scale = decode_scale(scale_coder, head.scale_size, source)
    values = decode_values(value_coder, head.encoding, head.shape, scale, source)
    return EncodedTensor(head.name, head.encoding, values, scale)
