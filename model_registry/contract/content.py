"""A version's content: the one byte string that full and delta artifacts decode to, and whose SHA-256 is its identity.

Layout, little-endian, nothing between the parts and nothing after them (docs/container-format.md):

    "DFC1" | u32 length, manifest | u32 length, graph | u32 tensor count | tensors
    tensor: u16 length, name | u8 encoding | u8 rank, rank x u32 | u32 scale count, float32 scale | float32 offsets | values

Of the encoding the low six bits count; the two above them say how many offsets each index of axis 0 has.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.errors import LimitExceeded, MalformedArtifact, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS, Limits
from model_registry.contract.manifest import Manifest
from model_registry.contract.tensors import MAX_OFFSETS, NO_OFFSETS, EncodedTensor, Encoding, rows_of

MAGIC = b"DFC1"
# A side of 0 makes a tensor empty and hides how large the others are; beyond this no array could have them.
MAX_EXTENT = 1 << 40
ENCODING_BITS = 6


@dataclass(frozen=True, eq=False)
class Content:
    """Manifest, ONNX graph without weights, and the weights. Immutable; two contents are equal when their digests are."""

    manifest: Manifest
    graph: bytes
    tensors: tuple[EncodedTensor, ...]

    def __post_init__(self) -> None:
        names = [t.name for t in self.tensors]
        if len(set(names)) != len(names):
            raise MalformedArtifact("two tensors have the same name")

    @cached_property
    def data(self) -> bytes:
        """The canonical bytes."""
        return b"".join(content_parts(self.manifest.to_bytes(), self.graph, self.tensors))

    @cached_property
    def sha256(self) -> str:
        """The version's identity, lower-case hexadecimal."""
        return digest_of(content_parts(self.manifest.to_bytes(), self.graph, self.tensors))

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every tensor by name, as an engine takes it."""
        return {t.name: t.dequantize() for t in self.tensors}

    def named(self, family: str, version: str) -> Content:
        """The same model released under a name; a different content, because the name is part of it. Raises ManifestRefused."""
        return Content(self.manifest.named(family, version), self.graph, self.tensors)

    def with_recipe(self, **more: Any) -> Content:
        """The same model, of whose making the lineage tells more; a different content, as with a name."""
        lineage = replace(self.manifest.lineage, recipe={**self.manifest.lineage.recipe, **more})
        return Content(replace(self.manifest, lineage=lineage), self.graph, self.tensors)

    @classmethod
    def from_data(cls, data: bytes, limits: Limits = DEFAULT_LIMITS) -> Content:
        """Read canonical bytes. Raises ArtifactRefused or ManifestRefused; allocates no more than the bytes it is given."""
        if len(data) > limits.max_content_bytes:
            raise LimitExceeded(f"a content of {len(data)} bytes is above the limit of {limits.max_content_bytes}")
        reader = ByteReader(data)
        if reader.take(4) != MAGIC:
            raise UnsupportedArtifact("not a Deltafleet content: the first bytes are wrong")
        manifest = Manifest.from_bytes(reader.block("I", limits.max_manifest_bytes), max_bytes=limits.max_manifest_bytes)
        graph = reader.block("I", limits.max_graph_bytes)
        count = reader.number("I")
        if count > limits.max_tensors:
            raise LimitExceeded(f"{count} tensors are above the limit of {limits.max_tensors}")
        content = cls(manifest, graph, tuple(_read_tensor(reader) for _ in range(count)))
        reader.end()
        return content


class ByteReader:
    """Walks a byte string; every step beyond its end is a MalformedArtifact."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = memoryview(data).toreadonly()
        self._at = 0

    def take(self, size: int) -> bytes:
        return bytes(self.view(size))

    def view(self, size: int) -> memoryview:
        """As ``take``, without a copy: it lives as long as the data, and changes with them if somebody can."""
        if size > len(self._data) - self._at:
            raise MalformedArtifact("the file ends too early", remedy="download or build it again")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, form: str) -> int:
        """One little-endian unsigned integer of struct's format ``form``."""
        return self.numbers(form)[0]

    def numbers(self, form: str) -> tuple[int, ...]:
        """Little-endian unsigned integers, one for each letter of ``form``."""
        return struct.unpack("<" + form, self.view(struct.calcsize("<" + form)))

    def block(self, form: str, limit: int) -> bytes:
        """A length followed by that many bytes, at most ``limit``."""
        size = self.number(form)
        if size > limit:
            raise LimitExceeded(f"a part of {size} bytes is above the limit of {limit}")
        return self.take(size)

    def text(self, size: int) -> str:
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as exc:
            raise MalformedArtifact("a name is not UTF-8") from exc

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedArtifact(f"{len(self._data) - self._at} bytes follow the end")


def content_parts(manifest: bytes, graph: bytes, tensors: Sequence[EncodedTensor]) -> Iterator[bytes | memoryview]:
    """The canonical bytes piece by piece, so that a decoder can check the digest before anybody reads the manifest."""
    yield MAGIC + struct.pack("<I", len(manifest)) + manifest
    yield struct.pack("<I", len(graph)) + graph
    yield struct.pack("<I", len(tensors))
    for tensor in tensors:
        head = tensor_head(tensor.name, tensor.encoding, tensor.shape, offsets=len(tensor.offsets))
        yield head + struct.pack("<I", tensor.scale.size) + tensor.scale.astype("<f4").tobytes()
        yield tensor.offsets.astype("<f4").tobytes()
        yield np.ascontiguousarray(tensor.values).data


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """The SHA-256 of all parts, lower-case hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def tensor_head(name: str, encoding: Encoding, shape: tuple[int, ...], *, offsets: int) -> bytes:
    """Everything of a tensor but its numbers; ``offsets``: how many each row has."""
    text, code = name.encode(), encoding | offsets << ENCODING_BITS
    return struct.pack(f"<H{len(text)}sBB{len(shape)}I", len(text), text, code, len(shape), *shape)


def read_tensor_head(reader: ByteReader) -> tuple[str, Encoding, tuple[int, ...], int]:
    """The inverse of ``tensor_head``; how many offsets a row has comes last."""
    name = reader.text(reader.number("H"))
    code, rank = reader.numbers("BB")
    offsets, encoding = divmod(code, 1 << ENCODING_BITS)
    if encoding >= len(Encoding) or offsets > MAX_OFFSETS:
        raise UnsupportedArtifact(f"tensor {name!r} has the unknown encoding {code}", remedy="update this program")
    if rank > 8:
        raise MalformedArtifact(f"tensor {name!r} has more than 8 dimensions")
    shape = reader.numbers(f"{rank}I")
    if math.prod(side or 1 for side in shape) > MAX_EXTENT:
        raise MalformedArtifact(f"tensor {name!r} has the impossible shape {shape}")
    if offsets and not rows_of(shape):
        raise MalformedArtifact(f"tensor {name!r} has offsets for no rows")
    return name, Encoding(encoding), shape, offsets


def _read_tensor(reader: ByteReader) -> EncodedTensor:
    name, encoding, shape, count = read_tensor_head(reader)
    scale = np.frombuffer(reader.take(4 * reader.number("I")), "<f4").astype(np.float32)
    offsets = NO_OFFSETS
    if count:
        offsets = np.frombuffer(reader.take(4 * count * rows_of(shape)), "<f4").astype(np.float32).reshape(count, -1)
    # Wider types want an address that is a multiple of their size, which a copy has.
    take = reader.view if encoding.dtype.itemsize == 1 else reader.take
    values = np.frombuffer(take(math.prod(shape) * encoding.dtype.itemsize), encoding.dtype)
    return EncodedTensor(name, encoding, values.reshape(shape), scale, offsets)
