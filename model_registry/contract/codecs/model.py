"""The ``model`` coding of a content: head, then tensor by tensor. With a base it is a delta, without one a full artifact.

The head is an outline (codecs/heads.py), compressed with the base's as dictionary; the literals of its manifest and the numbers
of all coders (codecs/tensor_coding.py) come before the tensors, each of which is matched with the base's of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

from model_registry.contract.codecs.heads import Coders, ContentHead, max_head_bytes, read_head, read_outline, write_coders
from model_registry.contract.codecs.literals import Literals, Template
from model_registry.contract.codecs.sections import Sink, Source, unpack, unpack_first
from model_registry.contract.codecs.tensor_coding import decode_tensor, encode_tensor
from model_registry.contract.content import ByteReader, Content
from model_registry.contract.limits import Limits
from model_registry.contract.tensors import EncodedTensor

# Of the first update's recipe, whose base has none of them.
WORDS = b'"like":{"codebooks":true,"step":\x02},"lost":\x02,"noise":\x02,"price":\x02,'


def encode(base: Content | None, new: Content) -> bytes:
    """The payload that makes ``new``; deterministic."""
    return pack(base, ContentHead.of(new), *encode_tensors(base, new.tensors))


def encode_tensors(base: Content | None, tensors: Sequence[EncodedTensor]) -> tuple[list[bytes], Sink]:
    """The coder numbers of all tensors, and what they coded."""
    known, sink = {t.name: t for t in base.tensors} if base else {}, Sink()
    return [encode_tensor(known.get(tensor.name), tensor, sink) for tensor in tensors], sink


def pack(base: Content | None, head: ContentHead, coders: Sequence[bytes], tensors: Sink) -> bytes:
    """The payload of a content with this ``head`` whose ``tensors`` are coded by these ``coders``."""
    manifest, literals, sink = Template.of(head.manifest), literals_of(base), Sink()
    literals.write(sink, manifest)
    write_coders(sink.symbols, [tensor.offsets for tensor in head.tensors], coders)
    sink.extend(tensors)
    return sink.pack(head.outline(manifest.text), dictionary=dictionary_of(base, literals))


def decode(base: Content | None, payload: bytes, *, size: int, sha256: str, limits: Limits) -> Content:
    """The inverse of ``encode``, for a content of ``size`` bytes; memory is bounded by ``size`` and ``limits``.

    Raises ArtifactRefused or ManifestRefused.
    """
    literals = literals_of(base)
    data, source = unpack(payload, max_head_bytes=max_head_bytes(size, limits), dictionary=dictionary_of(base, literals))
    reader = ByteReader(data)

    def filled(template: bytes) -> bytes:
        return literals.read(source, template, max_bytes=limits.max_manifest_bytes)

    head, coders = read_outline(reader, source.symbols, filled, content_bytes=size, limits=limits)
    reader.end()
    return head.content(_tensors(base, head, coders, source), sha256=sha256, limits=limits)


def decode_first(base: Content | None, payload: bytes, *, size: int, sha256: str, limits: Limits) -> Content:
    """The same of payloads of the first form, which nobody makes any more: their head has the manifest as it is."""
    data, source = unpack_first(payload, max_head_bytes=max_head_bytes(size, limits), dictionary=first_dictionary_of(base))
    reader = ByteReader(data)
    head, coders = read_head(reader, content_bytes=size, limits=limits)
    reader.end()
    return head.content(_tensors(base, head, coders, source), sha256=sha256, limits=limits)


def _tensors(base: Content | None, head: ContentHead, coders: Sequence[Coders], source: Source) -> list[EncodedTensor]:
    known = {t.name: t for t in base.tensors} if base else {}
    tensors = [decode_tensor(known.get(t.name), t, own, source) for t, own in zip(head.tensors, coders, strict=True)]
    source.end()
    return tensors


def dictionary_of(base: Content | None, literals: Literals) -> bytes:
    """What a reader has already that occurs in the new outline."""
    return WORDS + (ContentHead.of(base).outline(literals.base.text) if base else b"")


def first_dictionary_of(base: Content | None) -> bytes:
    """The same of a payload of the first form: the digest is in the manifest's lineage."""
    return base.sha256.encode() + ContentHead.of(base).to_bytes() if base else b""


def literals_of(base: Content | None) -> Literals:
    """Between the base's manifest and a new one."""
    if base is None:
        return Literals(Template(b"", ()), b"")
    return Literals(Template.of(base.manifest.to_bytes()), bytes.fromhex(base.sha256))
