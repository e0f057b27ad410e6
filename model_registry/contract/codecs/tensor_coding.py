"""One tensor, with or without the base's tensor of the same name: coder numbers for the head, and what they coded.

Scale, values and offsets, if there are any, are coded apart, so "other steps, same integers" and "same codebook, other indices"
cost only what is new. SAME takes a part from the base, lower numbers need no base, higher ones code changes. Offsets that the
base does not have are changes of 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.changes import FIRST_CHANGES, decode_changes, encode_changes
from model_registry.contract.codecs.differences import (
    FEWER_THAN,
    FIRST_DIFFERENCES,
    decode_differences,
    encode_differences,
)
from model_registry.contract.codecs.drift import read_drift, write_drift
from model_registry.contract.codecs.heads import TensorHead, naming_cost
from model_registry.contract.codecs.integers import Array, IntegerView
from model_registry.contract.codecs.mapping import maps, read_mapping, write_mapping
from model_registry.contract.codecs.moves import NO_MOVES, Moves, classes_of
from model_registry.contract.codecs.prediction import predict, predictions
from model_registry.contract.codecs.scales import decode_scale, encode_scale
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.codecs.sparse import FIRST_BY_MOVES, FIRST_SPARSE, are_sparse, decode_sparse, encode_sparse
from model_registry.contract.codecs.values import decode_values, encode_values
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.tensors import NO_OFFSETS, EncodedTensor, rows_of

Floats = npt.NDArray[np.float32]
SAME = 16
DRIFT = 44
MAPPING = 45


def encode_tensor(old: EncodedTensor | None, new: EncodedTensor, sink: Sink) -> bytes:
    """Put the cheapest way of coding ``new`` into ``sink`` and return its coder numbers: of scale, values, and any offsets."""
    scale, values = _encode_scale(old, new), _encode_values(old, new)
    before = offsets_before(old, new.offsets.shape)
    offsets = [
        (SAME, Sink()) if _same(known, fresh) else encode_scale(fresh, known)
        for known, fresh in zip(before, new.offsets, strict=True)
    ]
    for _, part in (scale, *offsets, values) if _offsets_first(values[0]) else (scale, values, *offsets):
        sink.extend(part)
    return bytes(number for number, _ in (scale, values, *offsets))


def _offsets_first(values_number: int) -> bool:
    """Whether values are told in contexts that come from the offsets."""
    return values_number >= FIRST_BY_MOVES


def _encode_scale(old: EncodedTensor | None, new: EncodedTensor) -> tuple[int, Sink]:
    if old is not None and _same(old.scale, new.scale):
        return SAME, Sink()
    return encode_scale(new.scale, old.scale if old else None)


def offsets_before(old: EncodedTensor | None, shape: tuple[int, ...]) -> Floats:
    """The base's offsets in the ``shape`` of new ones (offsets, rows), 0 where it has none."""
    before: Floats = np.zeros(shape, np.float32)
    if old is not None:
        known = old.offsets[: shape[0], : shape[1]]
        before[: known.shape[0], : known.shape[1]] = known
    return before


def _encode_values(old: EncodedTensor | None, new: EncodedTensor) -> tuple[int, Sink]:
    if old is not None and _same(old.values, new.values):
        return SAME, Sink()
    candidates: list[tuple[int, Sink]] = [encode_values(new)]
    if old is not None:
        candidates += ways_from(old, new)
    return min(candidates, key=lambda candidate: candidate[1].cost + naming_cost(candidate[0]))


def ways_from(old: EncodedTensor, new: EncodedTensor) -> Iterator[tuple[int, Sink]]:
    """Every way of coding ``new`` against ``old`` that may pay, by number."""
    view, mapping = IntegerView(new.encoding, new.scale), Sink()
    if maps(old, view, new.shape) and write_mapping(mapping, old, new):
        # Nothing else comes near a few bytes.
        yield MAPPING, mapping
        return
    moves = moves_of(old, new.offsets, new.shape)
    for by_weight, prediction in predictions(old, view, new.shape):
        if view.is_integer and new.values.size < FEWER_THAN:
            yield encode_differences(prediction, new.values, by_weight=by_weight)
        if view.is_integer and are_sparse(prediction, new.values):
            yield from encode_sparse(prediction, new.values, moves, by_weight=by_weight)
        else:
            yield from encode_changes(prediction, new.values, by_weight=by_weight)
    weights, sink = _weights(old, view, new.shape), Sink()
    if weights is not None and write_drift(sink, weights, new.values.ravel(), new.shape):
        yield DRIFT, sink


def moves_of(old: EncodedTensor | None, offsets: Floats, shape: tuple[int, ...]) -> Moves:
    """How far the first offset of every row moved; it is 0 where there is none."""
    if not math.prod(shape):
        # An empty tensor may declare any number of rows.
        return NO_MOVES
    if not len(offsets) and (old is None or not len(old.offsets)):
        return np.zeros(rows_of(shape), np.uint8)
    before = offsets_before(old, (1, rows_of(shape)))[0]
    return classes_of(before, offsets[0] if len(offsets) else np.zeros_like(before))


def _weights(old: EncodedTensor | None, view: IntegerView, shape: tuple[int, ...]) -> Array | None:
    """The base's weights laid over ``shape``, flat; None where that makes no sense for a new tensor of floats."""
    drifts = old is not None and not view.is_integer and math.prod(shape) > 0
    prediction = predict(old, view, shape, by_weight=True) if old and drifts else None
    return prediction.aligned if prediction else None


def _same(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.dtype == new.dtype and old.shape == new.shape and old.tobytes() == new.tobytes()


def decode_tensor(old: EncodedTensor | None, head: TensorHead, numbers: Sequence[int], source: Source) -> EncodedTensor:
    """The inverse of ``encode_tensor``. Raises ArtifactRefused."""
    of_scale, of_values, *of_offsets = numbers
    scale = _decode_scale(old, head, of_scale, source)
    view = IntegerView(head.encoding, scale)
    if _offsets_first(of_values):
        offsets = _decode_offsets(old, head, of_offsets, source)
        values = _decode_values(old, head, view, of_values, source, moves=moves_of(old, offsets, head.shape))
    else:
        values = _decode_values(old, head, view, of_values, source, moves=NO_MOVES)
        offsets = _decode_offsets(old, head, of_offsets, source)
    return EncodedTensor(head.name, head.encoding, values, scale, offsets)


def _decode_scale(old: EncodedTensor | None, head: TensorHead, number: int, source: Source) -> Floats:
    if number != SAME:
        return decode_scale(number, head.scale_size, source, old.scale if old else None)
    if old is None or old.scale.size != head.scale_size:
        raise MalformedArtifact(f"tensor {head.name!r} takes its scale from a base that has no such")
    return old.scale


def _decode_offsets(old: EncodedTensor | None, head: TensorHead, numbers: Sequence[int], source: Source) -> Floats:
    if not head.offsets:
        return NO_OFFSETS
    offsets = offsets_before(old, (head.offsets, rows_of(head.shape)))
    for number, own in zip(numbers, offsets, strict=True):
        if number != SAME:
            own[:] = decode_scale(number, own.size, source, own)
    return offsets


def _decode_values(
    old: EncodedTensor | None, head: TensorHead, view: IntegerView, number: int, source: Source, *, moves: Moves
) -> Array:
    if number == MAPPING:
        if old is None or not maps(old, view, head.shape):
            raise MalformedArtifact(f"tensor {head.name!r} takes its indices from a base that has no such")
        return read_mapping(source, old, view)
    if number == DRIFT:
        weights = _weights(old, view, head.shape)
        if weights is None:
            raise MalformedArtifact(f"tensor {head.name!r} drifts from floats that the base does not have")
        return read_drift(source, weights, head.shape, head.encoding.dtype).reshape(head.shape)
    if number >= FIRST_SPARSE:
        return decode_sparse(number, old, moves, view=view, shape=head.shape, source=source)
    if number >= FIRST_DIFFERENCES:
        return decode_differences(number, old, view=view, shape=head.shape, source=source)
    if number >= FIRST_CHANGES:
        return decode_changes(number, old, view=view, shape=head.shape, source=source)
    if number != SAME:
        return decode_values(number, view, head.shape, source)
    if old is None or old.shape != head.shape or old.values.dtype != head.encoding.dtype:
        raise MalformedArtifact(f"tensor {head.name!r} takes its values from a base that has no such")
    return old.values
