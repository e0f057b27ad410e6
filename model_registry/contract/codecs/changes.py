"""One tensor's values, coded as changes of what the base's tensor of the same name predicts; sparse.py is for few changes.

Two modes, both in terms of integers (codecs/integers.py):

- steps (steps.py): the distance of every value from its prediction.
- replaced (symbols only): whether a value changes, then the new symbols of those that do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.contract.codecs.activity import Activity, Contexts
from model_registry.contract.codecs.integers import Array, IntegerView, signed
from model_registry.contract.codecs.numbers import (
    blocks,
    read_numbers,
    read_partitioned,
    write_numbers,
    write_partitioned,
)
from model_registry.contract.codecs.prediction import Prediction, predict
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.codecs.steps import from_steps, to_steps
from model_registry.contract.entropy import unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor

Integers = npt.NDArray[np.integer[Any]]

FIRST_CHANGES = 32


@dataclass(frozen=True, slots=True)
class ChangeCoder:
    """One way of coding changes; its number in the head is 32 + 6 by_weight + 3 replaced + activity."""

    by_weight: bool
    replaced: bool
    activity: Activity

    @property
    def number(self) -> int:
        return FIRST_CHANGES + 6 * self.by_weight + 3 * self.replaced + self.activity

    def fits(self, view: IntegerView, shape: tuple[int, ...]) -> bool:
        return (view.alphabet is not None or not self.replaced) and self.activity.fits(shape)


CODERS = tuple(
    ChangeCoder(weight, replaced, activity) for weight in (False, True) for replaced in (False, True) for activity in Activity
)


def encode_changes(prediction: Prediction, values: Array, *, by_weight: bool) -> Iterator[tuple[int, Sink]]:
    """Every way of coding how ``values`` differ from their ``prediction`` that may pay, by number."""
    view = prediction.new
    for coder in CODERS:
        # Of floats nearly all change when any do: activity tells nothing.
        if coder.by_weight is by_weight and coder.fits(view, values.shape) and (view.is_integer or not coder.activity):
            sink = Sink()
            _Changes(prediction, values.shape, coder).write(sink, values.ravel())
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
        raise MalformedArtifact("changes are coded against a tensor that the base does not have, or not like this")
    return _Changes(prediction, shape, coder).read(source).reshape(shape)


class _Changes:
    """Writes or reads one tensor's changes; both directions go through the same contexts."""

    def __init__(self, prediction: Prediction, shape: tuple[int, ...], coder: ChangeCoder) -> None:
        self._prediction = prediction
        self._view = prediction.new
        self._size = math.prod(shape)
        self._replaced = coder.replaced
        self._contexts = Contexts(shape, coder.activity)

    def write(self, sink: Sink, values: Array) -> None:
        self._contexts.write(sink.symbols, self._prediction, values)
        for part in blocks(self._size):
            predicted = self._prediction.integers(part)
            self._write_block(sink, self._view.integers(values[part]).astype(np.int64), predicted, part)

    def read(self, source: Source) -> Array:
        self._contexts.read(source.symbols)
        values = np.empty(self._size, self._view.encoding.dtype)
        for part in blocks(self._size):
            values[part] = self._view.values(self._read_block(source, self._prediction.integers(part), part))
        return values

    def _write_block(self, sink: Sink, integers: Integers, predicted: Integers, part: slice) -> None:
        kinds = self._prediction.kind(predicted, part)
        contexts, count = self._contexts.of(kinds, self._prediction.kinds, part)
        alphabet = self._view.alphabet
        if self._replaced and alphabet:
            changed = integers != predicted
            write_partitioned(sink.symbols, changed.astype(np.int64), contexts, alphabet=2, count=count)
            write_partitioned(sink.symbols, integers[changed], kinds[changed], alphabet=alphabet, count=self._prediction.kinds)
        elif alphabet:
            steps = to_steps(integers, predicted, alphabet, self._view.zero)
            write_partitioned(sink.symbols, steps, contexts, alphabet=alphabet, count=count)
        else:
            write_numbers(sink.symbols, zigzag(self._difference(integers - predicted)), contexts, count)

    def _read_block(self, source: Source, predicted: Integers, part: slice) -> Integers:
        kinds = self._prediction.kind(predicted, part)
        contexts, count = self._contexts.of(kinds, self._prediction.kinds, part)
        alphabet, size = self._view.alphabet, predicted.size
        if self._replaced and alphabet:
            flags = read_partitioned(source.symbols, size, contexts, alphabet=2, count=count, dtype=np.bool_)
            kinds = kinds[flags]
            predicted[flags] = read_partitioned(
                source.symbols, kinds.size, kinds, alphabet=alphabet, count=self._prediction.kinds, dtype=np.uint8
            )
            return predicted
        if alphabet:
            steps = read_partitioned(source.symbols, size, contexts, alphabet=alphabet, count=count, dtype=np.uint8)
            moved = np.flatnonzero(steps != 0)
            predicted[moved] = from_steps(steps[moved], predicted[moved], alphabet, self._view.zero)
            return predicted
        return predicted + unzigzag(read_numbers(source.symbols, size, contexts, count))

    def _difference(self, difference: Integers) -> Integers:
        return difference if self._view.is_integer else signed(difference, self._view.width)
