"""The ``model`` delta codec: tensor by tensor against the base's tensor of the same name.

The head is compressed with the base's head as dictionary. After it stand two numbers for each tensor: how the scale and how the
values are coded. SAME takes them from the base, numbers below it are the coders of full artifacts, those above code
changes (codecs/changes.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.heads import ContentHead, TensorHead, max_head_bytes
from model_registry.contract.codecs.sections import Sink, Source, unpack
from model_registry.contract.codecs.values import decode_scale, decode_values, encode_scale, encode_values
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.limits import Limits
from model_registry.contract.tensors import EncodedTensor

SAME = 16


def encode(base: Content, new: Content) -> bytes:
    """The payload that makes ``new`` of ``base``; deterministic."""
    known = {t.name: t for t in base.tensors}
    sink, coders = Sink(), bytearray()
    for tensor in new.tensors:
        coders += _encode_tensor(known.get(tensor.name), tensor, sink)
    return sink.pack(ContentHead.of(new).to_bytes() + coders, dictionary=ContentHead.of(base).to_bytes())


def _encode_tensor(old: EncodedTensor | None, new: EncodedTensor, sink: Sink) -> bytes:
    scale_coder, value_coder = SAME, SAME
    if old is None or not _same(old.scale, new.scale):
        scale_coder, scale = encode_scale(new.scale)
        sink.extend(scale)
    if old is None or not _same(old.values, new.values):
        value_coder, values = encode_values(new)
        sink.extend(values)
    return bytes([scale_coder, value_coder])


def _same(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()


def decode(base: Content, payload: bytes, *, size: int, sha256: str, limits: Limits) -> Content:
    """The inverse of ``encode``. Raises ArtifactRefused or ManifestRefused; memory is bounded by ``size`` and ``limits``."""
    dictionary = ContentHead.of(base).to_bytes()
    head_bytes, source = unpack(payload, max_head_bytes=max_head_bytes(size, limits), dictionary=dictionary)
    reader = ByteReader(head_bytes)
    head = ContentHead.read(reader, content_bytes=size, limits=limits)
    coders = [(reader.number("B"), reader.number("B")) for _ in head.tensors]
    reader.end()
    known = {t.name: t for t in base.tensors}
    tensors = [_decode_tensor(known.get(t.name), t, *pair, source) for t, pair in zip(head.tensors, coders, strict=True)]
    source.end()
    return head.content(tensors, sha256=sha256)


def _decode_tensor(
    old: EncodedTensor | None, head: TensorHead, scale_coder: int, value_coder: int, source: Source
) -> EncodedTensor:
    scale = _same_scale(old, head) if scale_coder == SAME else decode_scale(scale_coder, head.scale_size, source)
    if value_coder == SAME:
        return EncodedTensor(head.name, head.encoding, _same_values(old, head), scale)
    values = decode_values(value_coder, head.encoding, head.shape, scale, source)
    return EncodedTensor(head.name, head.encoding, values, scale)


def _same_scale(old: EncodedTensor | None, head: TensorHead) -> npt.NDArray[np.float32]:
    if old is None or old.scale.size != head.scale_size:
        raise MalformedArtifact(f"tensor {head.name!r} takes its scale from a base that has no such")
    return old.scale


def _same_values(old: EncodedTensor | None, head: TensorHead) -> npt.NDArray[Any]:
    if old is None or old.shape != head.shape or old.values.dtype != head.encoding.dtype:
        raise MalformedArtifact(f"tensor {head.name!r} takes its values from a base that has no such")
    return old.values
