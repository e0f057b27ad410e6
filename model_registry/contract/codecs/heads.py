"""A content without its numbers: what full artifacts and model deltas send, zstd-compressed, before any symbol.

    u32 length, manifest | u32 length, graph | u32 tensor count | tensor heads

A tensor head is name, encoding and shape as in the content, then u32 scale count.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from model_registry.contract.content import ByteReader, Content, content_parts, digest_of, read_tensor_head, tensor_head
from model_registry.contract.errors import ContentMismatch, LimitExceeded, MalformedArtifact
from model_registry.contract.limits import Limits
from model_registry.contract.manifest import Manifest
from model_registry.contract.tensors import EncodedTensor, Encoding, rows_of

MAX_ENTRIES = 256


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
        if not fits:
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
        head = tensor_head(self.name, self.encoding, self.shape, offsets=self.offsets)
        return head + struct.pack("<I", self.scale_size)


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
        parts = [struct.pack("<I", len(self.manifest)), self.manifest, struct.pack("<I", len(self.graph)), self.graph]
        parts.append(struct.pack("<I", len(self.tensors)))
        parts += [tensor.to_bytes() for tensor in self.tensors]
        return b"".join(parts)

    @classmethod
    def read(cls, reader: ByteReader, *, content_bytes: int, limits: Limits) -> ContentHead:
        """Read a head; it must describe exactly ``content_bytes``, which bounds all that is decoded after it."""
        manifest = reader.block("I", limits.max_manifest_bytes)
        graph = reader.block("I", limits.max_graph_bytes)
        count = reader.number("I")
        if count > limits.max_tensors:
            raise LimitExceeded(f"{count} tensors are above the limit of {limits.max_tensors}")
        tensors = tuple(TensorHead(*read_tensor_head(reader), reader.number("I")) for _ in range(count))
        if len({tensor.name for tensor in tensors}) < count:
            raise MalformedArtifact("two tensors have the same name")
        head = cls(manifest, graph, tensors)
        if head.content_bytes != content_bytes:
            raise MalformedArtifact(f"the parts make a content of {head.content_bytes} bytes, declared are {content_bytes}")
        return head

    def content(self, tensors: Sequence[EncodedTensor], *, sha256: str, limits: Limits) -> Content:
        """Put decoded tensors to the head. The digest is compared before the manifest is read. Raises ContentMismatch."""
        require_digest(digest_of(content_parts(self.manifest, self.graph, tensors)), sha256)
        return Content(Manifest.from_bytes(self.manifest, max_bytes=limits.max_manifest_bytes), self.graph, tuple(tensors))


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
