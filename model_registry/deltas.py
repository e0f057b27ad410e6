"""The smallest proven delta between two contents, and what the same update would have cost other ways.

Every delta is decoded again and compared before it is returned. Whether it is worth keeping is the caller's decision.
"""

from __future__ import annotations

from dataclasses import dataclass

import bsdiff4
import numpy as np

from model_registry.contract.codecs import model, zstd
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, DeltaHeader, apply_delta
from model_registry.contract.errors import ArtifactRefused, ContentMismatch
from model_registry.contract.full import encode_full
from model_registry.contract.limits import MIB, Limits

BSDIFF4_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta artifact and the codec that made it."""

    codec: Codec
    data: bytes


@dataclass(frozen=True, slots=True)
class Counterfactuals:
    """What one vehicle's update would have cost without this registry, in bytes."""

    float32_full_bytes: int
    compressed_full_bytes: int
    bsdiff4_float16_bytes: int


def make_delta(base: Content, new: Content, codec: Codec | None = None) -> Delta:
    """A delta from ``base`` to ``new``: by ``codec``, or the smallest of all codecs whose result decodes to ``new``.

    Raises ContentMismatch when none does.
    """
    return min(make_deltas(base, new, [codec] if codec else worth_trying(base, new)), key=lambda delta: len(delta.data))


def worth_trying(base: Content, new: Content) -> list[Codec]:
    """All codecs; without bsdiff4 for contents whose suffix sorting would take minutes and many times their size in memory."""
    return [c for c in Codec if c is not Codec.BSDIFF4 or max(len(base.data), len(new.data)) <= BSDIFF4_BYTES]


def make_deltas(base: Content, new: Content, codecs: list[Codec]) -> list[Delta]:
    """One proven delta for each codec that manages. Raises ContentMismatch when none does."""
    limits = Limits(max_content_bytes=len(new.data))
    deltas, failures = [], []
    for codec in codecs:
        data = _encode(codec, base, new)
        try:
            apply_delta(base, data, limits)
            deltas.append(Delta(codec, data))
        except ArtifactRefused as exc:
            failures.append(f"{codec}: {exc.message}")
    if not deltas:
        raise ContentMismatch(f"no codec makes the new content from the base ({'; '.join(failures)})")
    return deltas


def _encode(codec: Codec, base: Content, new: Content) -> bytes:
    header = DeltaHeader(codec, base.sha256, new.sha256, len(new.data))
    match codec:
        case Codec.MODEL:
            payload = model.encode(base, new)
        case Codec.BSDIFF4:
            payload = bsdiff4.diff(base.data, new.data)
        case Codec.ZSTD:
            payload = zstd.encode(base.data, new.data)
    return header.to_bytes() + payload


def counterfactuals(base: Content | None, new: Content) -> Counterfactuals:
    """Float32 weights; our own full artifact; bsdiff4 between the float16 weights.

    Without a base, or with more weights than bsdiff4 is good for, the last is the size of the float16 weights.
    """
    halves = _float16_weights(new)
    return Counterfactuals(
        float32_full_bytes=sum(4 * t.size for t in new.tensors),
        compressed_full_bytes=len(encode_full(new)),
        bsdiff4_float16_bytes=_bsdiff4_bytes(_float16_weights(base), halves) if base else len(halves),
    )


def _float16_weights(content: Content) -> bytes:
    """All weights one after the other, as the smallest float file that a fleet without quantisation would ship."""
    with np.errstate(over="ignore"):
        return b"".join(t.dequantize().astype("<f2").tobytes() for t in content.tensors)


def _bsdiff4_bytes(old: bytes, new: bytes) -> int:
    return len(bsdiff4.diff(old, new)) if max(len(old), len(new)) <= BSDIFF4_BYTES else len(new)
