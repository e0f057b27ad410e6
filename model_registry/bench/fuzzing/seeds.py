"""Where the search starts: artifacts of small contents, made the same on every run.

Natural seeds are what the encoders make of a few related contents. Forced seeds name every coder that a decoder takes, over
random bytes and an invented symbol stream (streams.py): an encoder would never choose most of them.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np

from model_registry.bench.fuzzing.heads import LooseHead, LooseTensor
from model_registry.bench.fuzzing.mutations import dictionary_for, framed
from model_registry.bench.fuzzing.streams import invented
from model_registry.contract.codecs.sections import compress
from model_registry.contract.content import ENCODING_BITS, Content
from model_registry.contract.delta import Codec, DeltaHeader, apply_delta
from model_registry.contract.errors import Refusal, UnsupportedArtifact
from model_registry.contract.full import FIRST_MAGIC as FIRST_FULL_MAGIC
from model_registry.contract.full import MAGIC as FULL_MAGIC
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.tensors import NO_SCALE, EncodedTensor, Encoding
from model_registry.deltas import make_delta

Decode = Callable[[bytes], Content]

CODER_NUMBERS = range(80)
NOISE_BYTES = 600
# Both zeros, infinities, subnormals, NaNs with payloads and either sign.
AWKWARD = (0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x80000001, 0x7FC00001, 0xFFC12345, 0x7F800001, 0x3F800000)


def known_contents() -> tuple[Content, ...]:
    """The bases that a delta may name: two near relatives, one of other shapes and encodings, a small and an empty one."""
    first, second = _network(1, "1.0.0"), _successor(_network(1, "1.1.0"))
    small = _content("1.0.0", _codebook("conv.weight", (5, 3), seed=3))
    return first, second, _reshaped(), small, _content("1.0.0")


@cache
def _manifest(version: str) -> Manifest:
    return Manifest(
        architecture="squeezenet1_1",
        parameters=12,
        inputs=(InputSpec("image", "float32", (1, 3, 8, 8)),),
        outputs=("scores",),
        labels=("stop", "yield"),
        version=version,
    )


def _content(version: str, *tensors: EncodedTensor) -> Content:
    return Content(_manifest(version), b"graph of " + version.encode(), tensors)


def _tensor(name: str, encoding: Encoding, values: Any, scale: Any = ()) -> EncodedTensor:
    stored = np.asarray(values, encoding.dtype, order="C")
    return EncodedTensor(name, encoding, stored, np.asarray(scale, np.float32) if len(scale) else NO_SCALE)


def _codebook(name: str, shape: tuple[int, ...], *, seed: int, entries: int = 9) -> EncodedTensor:
    rng = np.random.default_rng(seed)
    scale = np.concatenate([[0], rng.standard_normal(entries - 1)]).astype(np.float16).astype(np.float32)
    indices = np.where(rng.random(shape) < 0.6, 0, rng.integers(0, entries, shape))
    return EncodedTensor(name, Encoding.CODEBOOK, indices.astype(np.uint8), scale)


def _network(seed: int, version: str) -> Content:
    rng = np.random.default_rng(seed)
    return _content(
        version,
        # Large enough for sparse changes by row and column.
        _shifted(_codebook("conv.weight", (16, 4, 3, 3), seed=seed), 1),
        _tensor("conv.bias", Encoding.GRID8, rng.integers(-127, 128, 16), [0.01]),
        _tensor("wide.weight", Encoding.GRID16, rng.integers(-900, 900, (4, 20)), rng.random(4) + 0.5),
        _tensor("half.weight", Encoding.FLOAT16, rng.standard_normal((6, 7))),
        _tensor("full.weight", Encoding.FLOAT32, rng.standard_normal((5, 6))),
        _tensor("few.weight", Encoding.FLOAT32, rng.choice([0.0, 0.5, -1.5], (6, 20))),
        _tensor("awkward", Encoding.FLOAT32, np.array(AWKWARD, "<u4").view("<f4")),
        _tensor("scalar", Encoding.FLOAT32, np.float32(3)),
        _tensor("empty", Encoding.FLOAT16, np.zeros((0, 4))),
    )


def _successor(old: Content) -> Content:
    """Some values of every tensor moved a little; one codebook's entries and one grid's steps, too."""
    rng = np.random.default_rng(7)
    tensors = []
    for tensor in old.tensors:
        if tensor.encoding in (Encoding.FLOAT32, Encoding.FLOAT16):
            with np.errstate(invalid="ignore"):
                values = tensor.values * np.asarray(1.001, tensor.values.dtype)
        else:
            values = np.where(rng.random(tensor.shape) < 0.2, 1, tensor.values).astype(tensor.values.dtype)
        scale = (tensor.scale * 1.125).astype(np.float32) if tensor.name.endswith("weight") else tensor.scale
        changed = EncodedTensor(tensor.name, tensor.encoding, values, scale)
        tensors.append(_shifted(changed, 2) if tensor.offsets.size else changed)
    return replace(old, tensors=tuple(tensors))


def _shifted(tensor: EncodedTensor, offsets: int) -> EncodedTensor:
    """So many offsets a row, in steps of 2^-9."""
    levels = np.random.default_rng(offsets).integers(-4, 5, (offsets, tensor.shape[0]))
    return replace(tensor, offsets=(levels * 2.0**-9).astype(np.float32))


def _reshaped() -> Content:
    """Grown, shrunk, another encoding, another rank; one tensor less and one more."""
    rng = np.random.default_rng(11)
    return _content(
        "2.0.0",
        _codebook("conv.weight", (18, 4, 3, 3), seed=5, entries=17),
        _tensor("conv.bias", Encoding.FLOAT16, rng.standard_normal(17)),
        _tensor("wide.weight", Encoding.GRID8, rng.integers(-90, 90, (3, 20)), rng.random(3) + 0.5),
        _codebook("half.weight", (6, 7), seed=6),
        _tensor("full.weight", Encoding.GRID16, rng.integers(-90, 90, 30), [0.02]),
        _tensor("added", Encoding.FLOAT32, rng.standard_normal((3, 3))),
    )


def full_seeds() -> tuple[list[bytes], list[bytes]]:
    """Full artifacts: natural ones, and every coder forced."""
    return [encode_full(content) for content in known_contents()], list(_forced(None, decode_full))


def delta_seeds() -> tuple[list[bytes], list[bytes]]:
    """Deltas: on the known contents by every codec, and every coder forced."""
    contents = known_contents()
    natural = [make_delta(base, new, codec).data for base, new in permutations(contents[:4], 2) for codec in Codec]
    natural.append(make_delta(contents[4], contents[3], Codec.MODEL).data)
    return natural, list(_forced(contents[0], lambda data: apply_delta(contents[0], data)))


def _forced(base: Content | None, decode: Decode) -> Iterator[bytes]:
    """One tensor alone, named as one that the base has, with every coder number for each part of a fitting kind of tensor."""
    rng = random.Random(5)  # noqa: S311  (repeatable, no secret)
    shapes = {t.name: t.shape for t in base.tensors[:5]} if base else {"alone": (6, 5)}
    for (name, shape), encoding in product(shapes.items(), Encoding):
        scales = {Encoding.CODEBOOK: 5, Encoding.GRID8: 1, Encoding.GRID16: 1}.get(encoding, 0)
        for grown in sorted({shape, tuple(side + 2 for side in shape)}):
            # Both forms have the same coders; of the first a few will do.
            for number, first in (*((n, False) for n in CODER_NUMBERS), *((n, True) for n in CODER_NUMBERS[::8])):
                for coders in ((3, number), (number, 0), (3, 0, number), (3, 0, 16, number))[: 4 if scales else 1]:
                    code = encoding | (len(coders) - 2) << ENCODING_BITS
                    data = _single(rng, base, decode, LooseTensor(name.encode(), code, grown, scales, coders), first=first)
                    if data:
                        yield data


def _accepted(decode: Decode, data: bytes) -> bool:
    """The coders exist: decoding gets as far as what they take."""
    try:
        decode(data)
    except UnsupportedArtifact:
        return False
    except Refusal:
        return True
    return True


def _single(rng: random.Random, base: Content | None, decode: Decode, tensor: LooseTensor, *, first: bool) -> bytes:
    """An artifact of one tensor; nothing when its coders are unknown."""
    head = LooseHead(_manifest("1.0.0").to_bytes(), b"", (tensor,), first)
    frame = compress(head.to_bytes(), level=1, dictionary=dictionary_for(base, first=first))
    header = (FIRST_FULL_MAGIC if first else FULL_MAGIC) + bytes(32) + struct.pack("<Q", head.content_bytes)
    if base is not None:
        header = DeltaHeader(Codec.MODEL, base.sha256, "00" * 32, head.content_bytes, first).to_bytes()
    scale = rng.randbytes(4 * tensor.scale_size)
    inner = compress(rng.randbytes(tensor.value_bytes), level=1)
    # What a raw scale and the zstd coder want stands first; to others it is as good as noise.
    blob = scale + struct.pack("<I", len(inner)) + inner + rng.randbytes(NOISE_BYTES)

    def whole(blob: bytes, stream: bytes = b"") -> bytes:
        return b"".join([header, *framed(frame, blob, first=first), stream])

    stream = invented(rng, lambda: decode(whole(blob)), head.symbols())
    if not _accepted(decode, whole(blob, stream)):
        return b""
    return whole(blob[: len(blob) - _left_over(decode, whole(blob, stream))], stream)


def _left_over(decode: Decode, artifact: bytes) -> int:
    """How many bytes of the blob a decoder did not want."""
    try:
        decode(artifact)
    except Refusal as exc:
        found = re.match(r"(\d+) bytes follow", exc.message)
        return int(found[1]) if found else 0
    return 0
