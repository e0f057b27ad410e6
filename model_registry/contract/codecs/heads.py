"""A content without its numbers: what full artifacts and model deltas send before all tensors.

    u32 length, manifest | u32 length, graph | u32 tensor count | tensor heads | coder numbers

A tensor head is name, encoding and shape as in the content, then u32 scale count; the coder numbers are those of its scale, its
values, and any offsets. In an *outline*, which is sent and hardly changes, a template (codecs/literals.py) stands for the
manifest; coder numbers, and how many offsets each tensor has, are symbols instead.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from model_registry.contract.codecs.numbers import Numbers, read_numbers, write_numbers
from model_registry.contract.content import ByteReader, Content, content_parts, digest_of, read_tensor_head, tensor_head
from model_registry.contract.entropy import COST_UNIT, SymbolReader, SymbolWriter
from model_registry.contract.errors import ContentMismatch, LimitExceeded, MalformedArtifact
from model_registry.contract.limits import Limits
from model_registry.contract.manifest import Manifest
from model_registry.contract.tensors import MAX_OFFSETS, EncodedTensor, Encoding, rows_of

MAX_ENTRIES = 256
# Of the scale, the values, and any offsets of a tensor.
Coders = tuple[int, ...]


def _usual_first(*numbers: int) -> bytes:
    return bytes([*numbers, *(number for number in range(256) if number not in numbers)])


# The coder numbers of scales, values and offsets by how usual they are in updates: small ranks take few bits.
_USUAL_FOR_VALUES = 16, 2, 48, 54, 50, 60
USUAL = _usual_first(16, 37, 34, 2), _usual_first(*_USUAL_FOR_VALUES), _usual_first(36, 16)
# About so much more than a usual number takes any other: mostly its rank is above all that the law of the usual ones expects.
UNUSUAL_COST = 12 * COST_UNIT


def naming_cost(value_coder: int) -> int:
    """What telling the number of a value coder takes more than telling a usual one."""
    return 0 if value_coder in _USUAL_FOR_VALUES else UNUSUAL_COST


@dataclass(frozen=True, slots=True)
class TensorHead:
    """A tensor without its numbers; ``offsets``: how many a row has. Raises MalformedArtifact when it cannot have so many."""

    name: str
    encoding: Encoding
    shape: tuple[int, ...]
    offsets: int
    scale_size: int

    def __post_init__(self) -> None:
        match self.encoding:
            case Encoding.FLOAT32 | Encoding.FLOAT16:
                fits = self.scale_size == 0 and not self.offsets
            case Encoding.GRID8 | Encoding.GRID16:
                fits = self.scale_size in (1, max(rows_of(self.shape), 1))
            case Encoding.CODEBOOK:
                fits = 1 <= self.scale_size <= MAX_ENTRIES
        if not fits or (self.offsets and not rows_of(self.shape)):
            raise MalformedArtifact(
                f"tensor {self.name!r} of shape {self.shape} cannot have {self.scale_size} scale entries"
                f" and {self.offsets} offsets a row"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def content_bytes(self) -> int:
        """What the whole tensor takes in the content."""
        floats = self.scale_size + self.offsets * rows_of(self.shape)
        return len(self.to_bytes()) + 4 * floats + self.size * self.encoding.dtype.itemsize

    def to_bytes(self) -> bytes:
        return _tensor_head(self, self.offsets)

    def outline(self) -> bytes:
        """The same for every number of offsets."""
        return _tensor_head(self, 0)


def _tensor_head(head: TensorHead, offsets: int) -> bytes:
    return tensor_head(head.name, head.encoding, head.shape, offsets=offsets) + struct.pack("<I", head.scale_size)


@dataclass(frozen=True, slots=True)
class ContentHead:
    """A content without its numbers."""

    manifest: bytes
    graph: bytes
    tensors: tuple[TensorHead, ...]

    @classmethod
    def of(cls, content: Content) -> ContentHead:
        heads = tuple(TensorHead(t.name, t.encoding, t.shape, len(t.offsets), t.scale.size) for t in content.tensors)
        return cls(content.manifest.to_bytes(), content.graph, heads)

    @property
    def content_bytes(self) -> int:
        return 16 + len(self.manifest) + len(self.graph) + sum(t.content_bytes for t in self.tensors)

    def to_bytes(self) -> bytes:
        return _joined(self.manifest, self.graph, [tensor.to_bytes() for tensor in self.tensors])

    def outline(self, template: bytes) -> bytes:
        """With the manifest's template in its place."""
        return _joined(template, self.graph, [tensor.outline() for tensor in self.tensors])

    def content(self, tensors: Sequence[EncodedTensor], *, sha256: str, limits: Limits) -> Content:
        """Put decoded tensors to the head. The digest is compared before the manifest is read. Raises ContentMismatch."""
        require_digest(digest_of(content_parts(self.manifest, self.graph, tensors)), sha256)
        return Content(Manifest.from_bytes(self.manifest, max_bytes=limits.max_manifest_bytes), self.graph, tuple(tensors))


def read_head(reader: ByteReader, *, content_bytes: int, limits: Limits) -> tuple[ContentHead, list[Coders]]:
    """A head and the coder numbers of every tensor; it must describe exactly ``content_bytes``, which bounds what follows."""
    manifest, graph, tensors = _read_parts(reader, limits)
    coders = [reader.numbers("BB" + tensor.offsets * "B") for tensor in tensors]
    return _fitting(ContentHead(manifest, graph, tuple(tensors)), content_bytes), coders


def read_outline(
    reader: ByteReader, symbols: SymbolReader, filled: Callable[[bytes], bytes], *, content_bytes: int, limits: Limits
) -> tuple[ContentHead, list[Coders]]:
    """The same of an outline and the ``symbols`` behind it; ``filled`` makes the manifest of its template, and comes first."""
    template, graph, outlines = _read_parts(reader, limits)
    manifest = filled(template)
    counts, coders = read_coders(symbols, len(outlines))
    tensors = tuple(_with_offsets(outline, offsets) for outline, offsets in zip(outlines, counts, strict=True))
    return _fitting(ContentHead(manifest, graph, tensors), content_bytes), coders


def write_coders(symbols: SymbolWriter, counts: Sequence[int], coders: Sequence[bytes]) -> None:
    """What an outline leaves out: how many offsets each tensor has, the coders of all scales, of all values, of all offsets."""
    write_numbers(symbols, np.array(counts, np.int64))
    columns = b"".join(own[:1] for own in coders), b"".join(own[1:2] for own in coders), b"".join(own[2:] for own in coders)
    for column, usual in zip(columns, USUAL, strict=True):
        write_numbers(symbols, np.array([usual.index(number) for number in column], np.int64))


def read_coders(symbols: SymbolReader, tensors: int) -> tuple[list[int], list[Coders]]:
    """The inverse of ``write_coders``. Raises MalformedArtifact."""
    counts = read_numbers(symbols, tensors).tolist()
    if max(counts, default=0) > MAX_OFFSETS:
        raise MalformedArtifact(f"a tensor cannot have {max(counts)} offsets a row")
    sizes = tensors, tensors, sum(counts)
    scales, values, of_offsets = (_from_ranks(read_numbers(symbols, n), usual) for n, usual in zip(sizes, USUAL, strict=True))
    left = iter(of_offsets)
    return counts, [(*own, *islice(left, offsets)) for *own, offsets in zip(scales, values, counts, strict=True)]


def _with_offsets(outline: TensorHead, offsets: int) -> TensorHead:
    if outline.offsets:
        raise MalformedArtifact(f"tensor {outline.name!r} has its offsets in the wrong place")
    return replace(outline, offsets=offsets)


def _from_ranks(ranks: Numbers, usual: bytes) -> list[int]:
    if ranks.max(initial=0) >= len(usual):
        raise MalformedArtifact(f"there is no coder with the rank {ranks.max()}")
    return [usual[rank] for rank in ranks.tolist()]


def _joined(manifest: bytes, graph: bytes, tensors: Sequence[bytes]) -> bytes:
    sizes = [struct.pack("<I", size) for size in (len(manifest), len(graph), len(tensors))]
    return b"".join([sizes[0], manifest, sizes[1], graph, sizes[2], *tensors])


def _read_parts(reader: ByteReader, limits: Limits) -> tuple[bytes, bytes, list[TensorHead]]:
    manifest = reader.block("I", limits.max_manifest_bytes)
    graph = reader.block("I", limits.max_graph_bytes)
    count = reader.number("I")
    if count > limits.max_tensors:
        raise LimitExceeded(f"{count} tensors are above the limit of {limits.max_tensors}")
    tensors = [TensorHead(*read_tensor_head(reader), reader.number("I")) for _ in range(count)]
    if len({tensor.name for tensor in tensors}) < count:
        raise MalformedArtifact("two tensors have the same name")
    return manifest, graph, tensors


def _fitting(head: ContentHead, content_bytes: int) -> ContentHead:
    if head.content_bytes != content_bytes:
        raise MalformedArtifact(f"the parts make a content of {head.content_bytes} bytes, declared are {content_bytes}")
    return head


def require_digest(found: str, declared: str) -> None:
    """Raises ContentMismatch unless a decoded content is the declared one."""
    if found != declared:
        raise ContentMismatch(
            f"decoding gave the content {found[:16]}..., the artifact names {declared[:16]}...",
            remedy="download or build it again",
        )


def max_head_bytes(content_bytes: int, limits: Limits) -> int:
    """The longest head that a content of this size can have, two coder numbers a tensor included."""
    return content_bytes + 2 * limits.max_tensors
