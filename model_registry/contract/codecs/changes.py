"""One tensor's values, coded as changes of what the base's tensor of the same name predicts.

Two modes, both in terms of integers (codecs/integers.py):

- steps: the distance from the prediction. Symbols take it around their alphabet, and "becomes zero" stands second after
  "stays", so that pruning is cheap.
- replaced (symbols only): whether a value changes, then the new symbols of those that do.

Contexts: the kind of the prediction, and how much changes in the value's row and column. The latter ("activity") is sent first,
as bit lengths of the numbers of changes; where a row or column has none, nothing is coded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.integers import Array, IntegerView, signed
from model_registry.contract.codecs.numbers import (
    bit_lengths,
    blocks,
    read_numbers,
    read_partitioned,
    write_numbers,
    write_partitioned,
)
from model_registry.contract.codecs.prediction import Prediction, predict
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor

Integers = npt.NDArray[np.integer[Any]]

FIRST_NUMBER = 32
ACTIVITY_ALPHABET = 33
# Sums of row and column activity above this share a context.
MAX_ACTIVITY = 15


class Activity(IntEnum):
    """Which numbers of changes are sent."""

    NONE = 0
    ROWS = 1
    ROWS_AND_COLUMNS = 2


@dataclass(frozen=True, slots=True)
class ChangeCoder:
    """One way of coding changes; its number in the head is 32 + 6 by_weight + 3 replaced + activity."""

    by_weight: bool
    replaced: bool
    activity: Activity

    @property
    def number(self) -> int:
        return FIRST_NUMBER + 6 * self.by_weight + 3 * self.replaced + self.activity

    def fits(self, view: IntegerView, shape: tuple[int, ...]) -> bool:
        # Activity takes room by the sides: an empty tensor has none to send, however long its sides are.
        has_activity = len(shape) > 1 and math.prod(shape) > 0
        return (view.alphabet is not None or not self.replaced) and (has_activity or self.activity is Activity.NONE)


CODERS = tuple(
    ChangeCoder(weight, replaced, activity) for weight in (False, True) for replaced in (False, True) for activity in Activity
)


def encode_changes(old: EncodedTensor, new: EncodedTensor) -> Iterator[tuple[int, Sink]]:
    """Every way of coding ``new`` against ``old`` that may pay, by number."""
    view = IntegerView(new.encoding, new.scale)
    same_integers = old.encoding is new.encoding and old.scale.tobytes() == new.scale.tobytes()
    for by_weight in (False,) if same_integers else (False, True):
        prediction = predict(old, view, new.shape, by_weight=by_weight)
        if prediction is None:
            continue
        for coder in CODERS:
            # Of floats nearly all change when any do: activity tells nothing.
            if coder.by_weight is by_weight and coder.fits(view, new.shape) and (view.is_integer or not coder.activity):
                sink = Sink()
                _Changes(prediction, new.shape, coder).write(sink, new.values.ravel())
                yield coder.number, sink


def decode_changes(
    number: int, old: EncodedTensor | None, *, view: IntegerView, shape: tuple[int, ...], source: Source
) -> Array:
    """Values of ``shape``, whose size the caller has bounded. Raises ArtifactRefused."""
    coder = next((coder for coder in CODERS if coder.number == number and coder.fits(view, shape)), None)
    if coder is None:
        raise UnsupportedArtifact(f"unknown coder {number} for {view.encoding.name}", remedy="update this program")
    prediction = predict(old, view, shape, by_weight=coder.by_weight) if old else None
    if prediction is None:
        raise MalformedArtifact("changes are coded against a tensor that the base does not have")
    return _Changes(prediction, shape, coder).read(source).reshape(shape)


class _Changes:
    """Writes or reads one tensor's changes; both directions go through the same contexts."""

    def __init__(self, prediction: Prediction, shape: tuple[int, ...], coder: ChangeCoder) -> None:
        self._prediction = prediction
        self._view = prediction.new
        self._size = math.prod(shape)
        self._coder = coder
        self._lengths = (*shape, 1, 1)[:2][: coder.activity]
        self._activity: list[Integers] = []

    def write(self, sink: Sink, values: Array) -> None:
        self._activity = self._count(values)
        for classes in self._activity:
            sink.symbols.partition(classes, ACTIVITY_ALPHABET)
        for part in blocks(self._size):
            predicted = self._prediction.integers(part)
            self._write_block(sink, self._view.integers(values[part]).astype(np.int64), predicted, part)

    def read(self, source: Source) -> Array:
        self._activity = [source.symbols.partition(length, ACTIVITY_ALPHABET, np.int64) for length in self._lengths]
        values = np.empty(self._size, self._view.encoding.dtype)
        for part in blocks(self._size):
            values[part] = self._view.values(self._read_block(source, self._prediction.integers(part), part))
        return values

    def _write_block(self, sink: Sink, integers: Integers, predicted: Integers, part: slice) -> None:
        contexts, count = self._contexts(predicted, part)
        alphabet = self._view.alphabet
        if self._coder.replaced and alphabet:
            changed = integers != predicted
            write_partitioned(sink.symbols, changed.astype(np.int64), contexts, alphabet=2, count=count)
            kinds = self._prediction.kind(predicted, part)[changed]
            write_partitioned(sink.symbols, integers[changed], kinds, alphabet=alphabet, count=self._prediction.kinds)
        elif alphabet:
            steps = _to_steps(integers, predicted, alphabet, self._view.zero)
            write_partitioned(sink.symbols, steps, contexts, alphabet=alphabet, count=count)
        else:
            write_numbers(sink.symbols, zigzag(self._difference(integers - predicted)), contexts, count)

    def _read_block(self, source: Source, predicted: Integers, part: slice) -> Integers:
        contexts, count = self._contexts(predicted, part)
        alphabet, size = self._view.alphabet, predicted.size
        if self._coder.replaced and alphabet:
            flags = read_partitioned(source.symbols, size, contexts, alphabet=2, count=count, dtype=np.bool_)
            kinds = self._prediction.kind(predicted, part)[flags]
            predicted[flags] = read_partitioned(
                source.symbols, kinds.size, kinds, alphabet=alphabet, count=self._prediction.kinds, dtype=np.uint8
            )
            return predicted
        if alphabet:
            steps = read_partitioned(source.symbols, size, contexts, alphabet=alphabet, count=count, dtype=np.uint8)
            moved = np.flatnonzero(steps != 0)
            predicted[moved] = _from_steps(steps[moved], predicted[moved], alphabet, self._view.zero)
            return predicted
        return predicted + unzigzag(read_numbers(source.symbols, size, contexts, count))

    def _difference(self, difference: Integers) -> Integers:
        return difference if self._view.is_integer else signed(difference, self._view.width)

    def _contexts(self, predicted: Integers, part: slice) -> tuple[Integers, int]:
        """The context of every value of a block, -1 where nothing is coded, and how many contexts there are."""
        kinds = self._prediction.kind(predicted, part)
        if not self._activity:
            return kinds, self._prediction.kinds
        contexts = self._spread_out(self._crossings(), part)
        idle = contexts < 0
        contexts += kinds
        contexts[idle] = -1
        return contexts, (MAX_ACTIVITY + 1) * self._prediction.kinds

    def _crossings(self) -> Integers:
        """Of every row, or every crossing of a row and a column, the first of its contexts; -1 where nothing changes.

        The sum of the activities tells the context.
        """
        rows, *columns = (activity.astype(np.int16) for activity in self._activity)
        sums, active = rows, rows > 0
        for column in columns:
            sums, active = rows[:, np.newaxis] + column, active[:, np.newaxis] & (column > 0)
        return (
            np.where(active, np.minimum(sums, MAX_ACTIVITY) * self._prediction.kinds, -1).astype(np.int16, copy=False).ravel()
        )

    def _spread_out(self, crossings: Integers, part: slice) -> Integers:
        """A number for each crossing as a number for each value of a block."""
        width = max(self._size // max(crossings.size, 1), 1)
        first, last = part.start // width, (part.stop - 1) // width + 1
        return np.repeat(crossings[first:last], width)[part.start - first * width : part.stop - first * width]

    def _count(self, values: Array) -> list[Integers]:
        """Bit lengths of the number of changes in every row, and in every column."""
        counts = np.zeros(math.prod(self._lengths), np.int64)
        for part in blocks(self._size) if self._lengths else ():
            changed = self._view.integers(values[part]).astype(np.int64) != self._prediction.integers(part)
            crossings = self._spread_out(np.arange(counts.size), part)
            counts += np.bincount(crossings[changed], minlength=counts.size)
        grid = counts.reshape(self._lengths)
        sums = [grid.sum(axis=tuple(a for a in range(grid.ndim) if a != axis)) for axis in range(len(self._lengths))]
        return [bit_lengths(count) for count in sums]


def _to_steps(symbols: Integers, predicted: Integers, alphabet: int, zero: int) -> Integers:
    """Steps around the alphabet, zigzag-coded; the step to ``zero`` (if there is one) comes second."""
    symbols, predicted = symbols.astype(np.int16), predicted.astype(np.int16)
    steps, second = _fold(symbols - predicted, alphabet), _second(predicted, alphabet, zero)
    return np.where((steps == second) & (second > 0), 1, np.where((steps >= 1) & (steps < second), steps + 1, steps))


def _from_steps(steps: Integers, predicted: Integers, alphabet: int, zero: int) -> Integers:
    """The inverse of ``_to_steps``."""
    steps, predicted = steps.astype(np.int16), predicted.astype(np.int16)
    second = _second(predicted, alphabet, zero)
    plain = steps - ((steps >= 2) & (steps <= second))
    np.copyto(plain, second, where=(steps == 1) & (second > 0))
    return (predicted + ((plain >> 1) ^ -(plain & 1))) % alphabet


def _fold(distance: Integers, alphabet: int) -> Integers:
    """The shorter way around, zigzag-coded; an alphabet has at most 256 symbols."""
    half = alphabet // 2
    folded = (distance + half) % alphabet - half
    return (folded << 1) ^ (folded >> 15)


def _second(predicted: Integers, alphabet: int, zero: int) -> Integers:
    """The zigzag step that leads to zero; 0 where the prediction is zero already or there is no zero."""
    return _fold(zero - predicted, alphabet) if zero >= 0 else np.zeros_like(predicted)
