"""A tensor's scale: the steps of its grid or the entries of its codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.drift import read_drift, write_drift
from model_registry.contract.codecs.integers import Array, from_ordered, ordered, signed
from model_registry.contract.codecs.numbers import read_numbers, write_numbers
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact

Scale = npt.NDArray[np.float32]
Reals = npt.NDArray[np.float64]


class _From(Enum):
    """What each entry is coded against."""

    NOTHING = "plain"
    PREVIOUS = "the entry before it"
    BASE = "the base's entry at its place"
    DRIFT = "the same, as floats that drifted"
    STEPS = "the same, in steps of one power of two"
    OCTAVE = "the same, times a power of two"


@dataclass(frozen=True, slots=True)
class _Coder:
    number: int
    dtype: np.dtype[Any]
    reference: _From


_HALF, _SINGLE = np.dtype("<f2"), np.dtype("<f4")
_CODERS = (
    _Coder(0, _HALF, _From.PREVIOUS),
    _Coder(1, _SINGLE, _From.PREVIOUS),
    _Coder(2, _HALF, _From.NOTHING),
    _Coder(3, _SINGLE, _From.NOTHING),
    _Coder(32, _HALF, _From.BASE),
    _Coder(33, _SINGLE, _From.BASE),
    _Coder(34, _HALF, _From.DRIFT),
    _Coder(35, _SINGLE, _From.DRIFT),
    _Coder(36, _HALF, _From.STEPS),
    _Coder(37, _HALF, _From.OCTAVE),
    _Coder(37, _SINGLE, _From.OCTAVE),
)
_AGAINST_BASE = (_From.BASE, _From.DRIFT, _From.STEPS, _From.OCTAVE)
# The finest step is the distance of the smallest float16 numbers; the coarsest one lies beyond the largest.
FINEST_OCTAVE, COARSEST_OCTAVE = -24, 17
# A byte less this tells how often a scale is doubled.
MAX_OCTAVE = 127


def encode_scale(scale: Scale, old: Scale | None = None) -> tuple[int, Sink]:
    """The smallest way to code a scale, by number; as float16 only when every entry survives that bit for bit."""
    return min(scale_candidates(scale, old), key=lambda candidate: candidate[1].cost)


def scale_candidates(scale: Scale, old: Scale | None) -> Iterator[tuple[int, Sink]]:
    """Every way of coding a scale, by number."""
    dtype = _HALF if _survives(scale) else _SINGLE
    for coder in _CODERS:
        sink = Sink()
        if coder.dtype == dtype and _write(coder, sink, scale.astype(dtype), old):
            yield coder.number, sink


def _write(coder: _Coder, sink: Sink, values: Array, old: Scale | None) -> bool:
    """Code a scale that has the coder's type; False where the coder does not fit."""
    if coder.reference in _AGAINST_BASE and (old is None or old.size != values.size):
        return False
    reference = np.zeros(0, np.float32) if old is None else old
    match coder.reference:
        case _From.NOTHING:
            sink.blob += values.tobytes()
        case _From.DRIFT:
            return values.size > 0 and write_drift(sink, _weights(reference), values, values.shape)
        case _From.STEPS:
            return _write_steps(sink, values, _as_weights(reference, coder.dtype))
        case _From.OCTAVE:
            return _write_octave(sink, values.astype(np.float32), _weights(reference))
        case _From.BASE | _From.PREVIOUS:
            steps = _steps(ordered(values), coder, old)
            write_numbers(sink.symbols, zigzag(signed(steps, coder.dtype.itemsize * 8)))
    return True


def _write_steps(sink: Sink, values: Array, old: Reals) -> bool:
    """The coarsest steps that lead to every entry, float16 rounding included."""
    with np.errstate(invalid="ignore"):
        moves = values.astype(np.float64) - old
    if not np.isfinite(moves).all():
        return False
    for octave in range(COARSEST_OCTAVE, FINEST_OCTAVE - 1, -1):
        counts = np.rint(np.ldexp(moves, -octave))
        if np.abs(counts).max(initial=0) >= 1 << 30:
            return False
        if _stepped(old, counts, octave).tobytes() == values.tobytes():
            sink.blob.append(octave - FINEST_OCTAVE)
            write_numbers(sink.symbols, zigzag(counts.astype(np.int64)))
            return True
    return False


def _write_octave(sink: Sink, values: Scale, old: Scale) -> bool:
    """How often all entries were doubled, negative where they were halved; False where that does not lead to them."""
    if not values.size:
        return False
    first = float(values[0]), float(old[0])
    if not all(math.isfinite(entry) and entry for entry in first):
        return False
    octave = math.frexp(first[0])[1] - math.frexp(first[1])[1]
    if abs(octave) > MAX_OCTAVE or _doubled(old, octave).tobytes() != values.tobytes():
        return False
    sink.blob.append(octave + MAX_OCTAVE)
    return True


def _doubled(old: Scale, octave: int) -> Scale:
    """Exact in float64, then rounded to float32, beyond whose range lie infinity and zero."""
    with np.errstate(over="ignore", under="ignore"):
        return (old.astype(np.float64) * 2.0**octave).astype(np.float32)


def _stepped(old: Reals, counts: Reals, octave: int) -> Array:
    with np.errstate(over="ignore"):
        return (old + np.ldexp(counts, octave)).astype(_HALF)


def decode_scale(number: int, size: int, source: Source, old: Scale | None = None) -> Scale:
    """The inverse of ``encode_scale``; the caller has bounded ``size``. Raises ArtifactRefused."""
    coder = next((coder for coder in _CODERS if coder.number == number), None)
    if coder is None:
        raise UnsupportedArtifact(f"unknown scale coder {number}", remedy="update this program")
    if coder.reference in _AGAINST_BASE and (old is None or old.size != size):
        raise MalformedArtifact("a scale is coded against one that the base does not have")
    return _read(coder, size, source, np.zeros(0, np.float32) if old is None else old).astype(np.float32)


def _read(coder: _Coder, size: int, source: Source, old: Scale) -> Array:
    """A scale in the coder's type or, where that tells nothing of it, in float32."""
    match coder.reference:
        case _From.NOTHING:
            return np.frombuffer(source.blob.take(size * coder.dtype.itemsize), coder.dtype)
        case _From.DRIFT:
            if not size:
                raise MalformedArtifact("a scale without entries drifts")
            return read_drift(source, _weights(old), (size,), coder.dtype)
        case _From.STEPS:
            octave = source.blob.number("B") + FINEST_OCTAVE
            counts = unzigzag(read_numbers(source.symbols, size)).astype(np.float64)
            return _stepped(_as_weights(old, coder.dtype), counts, octave)
        case _From.OCTAVE:
            return _doubled(_weights(old), source.blob.number("B") - MAX_OCTAVE)
        case _From.PREVIOUS:
            return from_ordered(np.cumsum(unzigzag(read_numbers(source.symbols, size))), coder.dtype)
        case _From.BASE:
            return from_ordered(_as(old, coder.dtype) + unzigzag(read_numbers(source.symbols, size)), coder.dtype)


def _steps(integers: npt.NDArray[np.int64], coder: _Coder, old: Scale | None) -> npt.NDArray[np.int64]:
    if coder.reference is _From.BASE and old is not None:
        return integers - _as(old, coder.dtype)
    return np.diff(integers, prepend=0)


def _weights(scale: Scale) -> Scale:
    """What is not a number counts as 0, as in tensors."""
    return np.where(np.isnan(scale), np.float32(0), scale)


def _as_weights(scale: Scale, dtype: np.dtype[Any]) -> Reals:
    """Weights of the base as the new scale's type has them."""
    with np.errstate(over="ignore"):
        return _weights(scale).astype(dtype).astype(np.float64)


def _as(scale: Scale, dtype: np.dtype[Any]) -> npt.NDArray[np.int64]:
    """Ordered integers of a scale; rounding to float16 (to nearest, ties to even) is only a prediction.

    What is not a number counts as 0: machines differ in what they make of its bits.
    """
    with np.errstate(over="ignore"):
        return ordered(_weights(scale).astype(dtype))


def _survives(scale: Scale) -> bool:
    with np.errstate(over="ignore"):
        return scale.astype(_HALF).astype(_SINGLE).tobytes() == scale.astype(_SINGLE).tobytes()
