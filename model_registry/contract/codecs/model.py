"""The ``model`` coding of a content: head, then tensor by tensor. With a base it is a delta, without one a full artifact.

The head is compressed with the base's digest and head as dictionary; after it stand the coder numbers of each tensor
(codecs/tensor_coding.py), which is matched with the base's tensor of the same name.
"""

from __future__ import annotations

from model_registry.contract.codecs.heads import ContentHead, max_head_bytes
from model_registry.contract.codecs.sections import Sink, unpack
from model_registry.contract.codecs.tensor_coding import decode_tensor, encode_tensor
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.limits import Limits


def encode(base: Content | None, new: Content) -> bytes:
    """The payload that makes ``new``; deterministic."""
    known = {t.name: t for t in base.tensors} if base else {}
    sink, coders = Sink(), bytearray()
    for tensor in new.tensors:
        coders += encode_tensor(known.get(tensor.name), tensor, sink)
    return sink.pack(ContentHead.of(new).to_bytes() + coders, dictionary=_dictionary(base))


def decode(base: Content | None, payload: bytes, *, size: int, sha256: str, limits: Limits) -> Content:
    """The inverse of ``encode``, for a content of ``size`` bytes; memory is bounded by ``size`` and ``limits``.

    Raises ArtifactRefused or ManifestRefused.
    """
    head_bytes, source = unpack(payload, max_head_bytes=max_head_bytes(size, limits), dictionary=_dictionary(base))
    reader = ByteReader(head_bytes)
    head = ContentHead.read(reader, content_bytes=size, limits=limits)
    coders = [reader.numbers("BB" + tensor.offsets * "B") for tensor in head.tensors]
    reader.end()
    known = {t.name: t for t in base.tensors} if base else {}
    tensors = [decode_tensor(known.get(t.name), t, own, source) for t, own in zip(head.tensors, coders, strict=True)]
    source.end()
    return head.content(tensors, sha256=sha256, limits=limits)


def _dictionary(base: Content | None) -> bytes:
    """What a reader has already that occurs in the new head: the base's head, and its digest, which the lineage names."""
    return base.sha256.encode() + ContentHead.of(base).to_bytes() if base else b""
