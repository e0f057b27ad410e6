"""One tensor, with or without the base's tensor of the same name: two coder numbers for the head, and what they coded.

Scale and values are coded apart, so "other steps, same integers" and "same codebook, other indices" cost only what is new. SAME
takes a part from the base, lower numbers need no base, higher ones code changes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.changes import FIRST_NUMBER, decode_changes, encode_changes
from model_registry.contract.codecs.heads import TensorHead
from model_registry.contract.codecs.integers import Array, IntegerView
from model_registry.contract.codecs.scales import decode_scale, encode_scale
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.codecs.values import decode_values, encode_values
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.tensors import EncodedTensor

SAME = 16


def encode_tensor(old: EncodedTensor | None, new: EncodedTensor, sink: Sink) -> bytes:
    """Put the cheapest way of coding ``new`` into ``sink`` and return its two coder numbers."""
    scale_number, scale = _encode_scale(old, new)
    values_number, values = _encode_values(old, new)
    sink.extend(scale)
    sink.extend(values)
    return bytes([scale_number, values_number])


def _encode_scale(old: EncodedTensor | None, new: EncodedTensor) -> tuple[int, Sink]:
    if old is not None and _same(old.scale, new.scale):
        return SAME, Sink()
    return encode_scale(new.scale, old.scale if old else None)


def _encode_values(old: EncodedTensor | None, new: EncodedTensor) -> tuple[int, Sink]:
    if old is not None and _same(old.values, new.values):
        return SAME, Sink()
    candidates: list[tuple[int, Sink]] = [encode_values(new)]
    if old is not None:
        candidates += encode_changes(old, new)
    return min(candidates, key=lambda candidate: candidate[1].cost)


def _same(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()


def decode_tensor(
    old: EncodedTensor | None, head: TensorHead, scale_number: int, values_number: int, source: Source
) -> EncodedTensor:
    """The inverse of ``encode_tensor``. Raises ArtifactRefused."""
    scale = _decode_scale(old, head, scale_number, source)
    return EncodedTensor(head.name, head.encoding, _decode_values(old, head, scale, values_number, source), scale)


def _decode_scale(old: EncodedTensor | None, head: TensorHead, number: int, source: Source) -> npt.NDArray[np.float32]:
    if number != SAME:
        return decode_scale(number, head.scale_size, source, old.scale if old else None)
    if old is None or old.scale.size != head.scale_size:
        raise MalformedArtifact(f"tensor {head.name!r} takes its scale from a base that has no such")
    return old.scale


def _decode_values(
    old: EncodedTensor | None, head: TensorHead, scale: npt.NDArray[np.float32], number: int, source: Source
) -> Array:
    view = IntegerView(head.encoding, scale)
    if number >= FIRST_NUMBER:
        return decode_changes(number, old, view=view, shape=head.shape, source=source)
    if number != SAME:
        return decode_values(number, view, head.shape, source)
    if old is None or old.shape != head.shape or old.values.dtype != head.encoding.dtype:
        raise MalformedArtifact(f"tensor {head.name!r} takes its values from a base that has no such")
    return old.values
