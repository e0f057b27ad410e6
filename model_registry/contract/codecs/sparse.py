"""One tensor's values where most stay: only those that change are told, in a pool with those of other tensors (pools.py).

What changes is told as steps from the prediction, as in changes.py, and in the same contexts. Where weights were pruned other
contexts serve better: pruning takes what is small, and leaves zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from model_registry.contract.codecs.activity import Activity, Contexts
from model_registry.contract.codecs.directions import Directions
from model_registry.contract.codecs.integers import Array, IntegerView
from model_registry.contract.codecs.moves import Moves
from model_registry.contract.codecs.places import Alike, Places, Sorted
from model_registry.contract.codecs.pools import SIZE, Changes, Long, Steps
from model_registry.contract.codecs.prediction import MAGNITUDES, Prediction, predict, predicts
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.codecs.steps import Signs, from_steps, mirrored, to_steps
from model_registry.contract.entropy import Integers, unzigzag, zigzag
from model_registry.contract.errors import MalformedArtifact, UnsupportedArtifact
from model_registry.contract.tensors import EncodedTensor

FIRST_SPARSE, FIRST_PRUNED, FIRST_DIRECTED, FIRST_BY_MOVES = 48, 60, 62, 70
# Tensors with fewer values do not earn tables of their own alphabet; blocks with fewer have one context.
SMALL, FEW = 4096, 512


@dataclass(frozen=True, slots=True)
class SparseCoder:
    """One way of telling sparse changes; its number in the head is 48 + 6 by_weight + 3 by_context + activity.

    ``by_context``: a step stands in the whole context of its value, not in that of its kind alone.
    ``pruned``: places stand in contexts by magnitude, and steps are those from zero; the number is 60 + by_weight then.
    ``directed``: rows send which way they go (directions.py), which needs activity; the number is 62 + 4 by_weight +
    2 by_context + activity - 1. ``by_moves``: a directed one, and the rows' activity stands in contexts by how far their
    offsets moved (moves.py), which then come first; the number is 8 more.
    """

    by_weight: bool
    by_context: bool = False
    activity: Activity = Activity.NONE
    pruned: bool = False
    directed: bool = False
    by_moves: bool = False

    @property
    def number(self) -> int:
        if self.directed:
            first = FIRST_BY_MOVES if self.by_moves else FIRST_DIRECTED
            return first + 4 * self.by_weight + 2 * self.by_context + self.activity - 1
        if self.pruned:
            return FIRST_PRUNED + self.by_weight
        return FIRST_SPARSE + 6 * self.by_weight + 3 * self.by_context + self.activity

    def fits(self, view: IntegerView, shape: tuple[int, ...]) -> bool:
        if not view.is_integer or (self.pruned and view.zero < 0):
            return False
        return self.activity.fits(shape) and (not self.activity or math.prod(shape) >= FEW)


CODERS = (
    *(
        SparseCoder(by_weight, by_context, activity)
        for by_weight, by_context, activity in product((False, True), (False, True), Activity)
        # Without activity a context is a kind.
        if activity or not by_context
    ),
    *(SparseCoder(by_weight, pruned=True) for by_weight in (False, True)),
    *(
        SparseCoder(by_weight, by_context, activity, directed=True, by_moves=by_moves)
        for by_moves, by_weight, by_context, activity in product(
            (False, True), (False, True), (False, True), (Activity.ROWS, Activity.ROWS_AND_COLUMNS)
        )
    ),
)


def are_sparse(prediction: Prediction, values: Array) -> bool:
    """Whether half the values or more are as predicted, or there are too few of them to earn tables of their own."""
    if values.size < SMALL:
        return True
    view, flat = prediction.new, values.ravel()
    changed = sum(int((view.integers(flat[part]) != prediction.integers(part)).sum()) for part in _blocks(flat.size))
    return 2 * changed <= flat.size


def encode_sparse(prediction: Prediction, values: Array, moves: Moves, *, by_weight: bool) -> Iterator[tuple[int, Sink]]:
    """Every way of telling how ``values`` differ from their ``prediction``, by number; with ``moves`` where there are some."""
    moved = bool(moves.any())
    for coder in CODERS:
        if coder.by_weight is by_weight and (moved or not coder.by_moves) and coder.fits(prediction.new, values.shape):
            sink, told, flat = Sink(), _Told(coder, values.shape, moves), values.ravel()
            told.write(sink, prediction, flat)
            sink.changes += [_changes(_Expected(prediction, told, p), flat[p]) for p in _blocks(flat.size)]
            yield coder.number, sink


def decode_sparse(
    number: int, old: EncodedTensor | None, moves: Moves, *, view: IntegerView, shape: tuple[int, ...], source: Source
) -> Array:
    """Values of ``shape``, whose size the caller has bounded; filled in when ``source`` ends. Raises ArtifactRefused."""
    coder = next((coder for coder in CODERS if coder.number == number and coder.fits(view, shape)), None)
    if coder is None:
        raise UnsupportedArtifact(f"unknown coder {number} for {view.encoding.name}", remedy="update this program")
    if old is None or not predicts(old, view, shape, by_weight=coder.by_weight):
        raise MalformedArtifact("changes are coded against a tensor that the base does not have, or not like this")
    told, values = _Told(coder, shape, moves), np.zeros(shape, view.encoding.dtype)
    told.read(source)
    tensor = _Tensor(old, view, told, values)
    source.pending += [_Block(tensor, part) for part in _blocks(values.size)]
    return values


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, SIZE):
        yield slice(start, min(start + SIZE, size))


class _Told:
    """What is told of a tensor of ``shape`` before its changes."""

    def __init__(self, coder: SparseCoder, shape: tuple[int, ...], moves: Moves) -> None:
        self.coder = coder
        self.contexts = Contexts(shape, coder.activity, moves if coder.by_moves else None)
        self.directions = Directions(shape) if coder.directed else None

    def write(self, sink: Sink, prediction: Prediction, values: Array) -> None:
        self.contexts.write(sink.symbols, prediction, values)
        if self.directions:
            self.directions.write(sink.symbols, self.contexts.changing_rows, prediction, values)

    def read(self, source: Source) -> None:
        self.contexts.read(source.symbols)
        if self.directions:
            self.directions.read(source.symbols, self.contexts.changing_rows)


@dataclass(slots=True, eq=False)
class _Tensor:
    """One whose ``values`` wait for their changes; its prediction is there from its first block that is opened to its last."""

    old: EncodedTensor
    view: IntegerView
    told: _Told
    values: Array
    prediction: Prediction | None = None

    def open(self, part: slice) -> _Opened:
        prediction = self.prediction or predict(self.old, self.view, self.values.shape, by_weight=self.told.coder.by_weight)
        assert prediction is not None
        self.prediction = prediction if part.stop < self.values.size else None
        return _Opened(_Expected(prediction, self.told, part), self.values.reshape(-1)[part])


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """A part of a tensor."""

    tensor: _Tensor
    part: slice

    @property
    def size(self) -> int:
        return int(self.part.stop - self.part.start)

    def open(self) -> _Opened:
        return self.tensor.open(self.part)


class _Expected:
    """What is known of a block before its changes: the integers that are predicted, and places by context.

    ``of_steps``: the context that a value's step stands in, one of ``step_contexts``.
    """

    def __init__(self, prediction: Prediction, told: _Told, part: slice) -> None:
        coder = told.coder
        self.view = prediction.new
        self.block = prediction.block(part)
        self._start, self._directions = part.start, told.directions
        self._pruned = coder.pruned
        self.step_contexts = 1
        self.of_steps: Integers = np.zeros(self.block.index.size, np.uint8)
        if self.block.index.size < FEW:
            self.places: Places = Alike(self.block.index.size)
            return
        if coder.pruned:
            self.places = Sorted(self.block.magnitudes(), MAGNITUDES)
            return
        kinds = self.block.kinds()
        found, count = told.contexts.of(kinds, prediction.kinds, part)
        self.places = Sorted(found, count)
        self.of_steps = found if coder.by_context else kinds
        self.step_contexts = count if coder.by_context else prediction.kinds

    def steps(self, integers: Integers, places: Long) -> Integers:
        """The steps, from 1 on, that lead to ``integers`` at these places."""
        before, signs, alphabet = self._before(places), self._directions_at(places), self.view.alphabet
        if alphabet is None:
            return zigzag(mirrored(integers - before, signs)) + self._pruned
        return to_steps(integers, before, alphabet, self.view.zero, signs) + self._pruned

    def stepped(self, steps: Steps, places: Long) -> Integers:
        """The inverse of ``steps``. Raises MalformedArtifact for those that lead out of the alphabet."""
        before, signs, alphabet = self._before(places), self._directions_at(places), self.view.alphabet
        steps = steps - self._pruned
        if alphabet is None:
            return np.asarray(before + mirrored(unzigzag(steps.astype(np.int64)), signs))
        if (steps >= alphabet).any():
            raise MalformedArtifact("a change leads beyond what its tensor can hold")
        return from_steps(steps, before, alphabet, self.view.zero, signs)

    def _before(self, places: Long) -> Integers:
        """What steps lead from: no step from the prediction is none, while one from zero may be."""
        return np.full(places.size, self.view.zero, self.view.dtype) if self._pruned else self.block.at(places)

    def _directions_at(self, places: Long) -> Signs | None:
        return self._directions.at(self._start + places) if self._directions else None


def _changes(expected: _Expected, values: Array) -> Changes:
    """How a block's values differ from what is predicted."""
    integers = expected.view.integers(values)
    order = expected.places.at(np.arange(expected.places.room.sum()))
    ranks = np.flatnonzero((integers != expected.block.at(slice(None)))[order])
    places = order[ranks]
    steps = expected.steps(integers[places], places)
    return Changes(values.size, expected.places.room, ranks, steps, expected.of_steps[places], expected.step_contexts)


class _Opened:
    """A block whose ``values`` can be filled in."""

    def __init__(self, expected: _Expected, values: Array) -> None:
        self._expected, self._values = expected, values
        self.room, self.step_contexts = expected.places.room, expected.step_contexts
        self._changed = np.zeros(0, np.int64)

    def find(self, ranks: Long) -> Integers:
        """The values at these ranks change; the contexts of their steps."""
        self._changed = self._expected.places.at(ranks)
        return self._expected.of_steps[self._changed]

    def change(self, steps: Steps) -> None:
        """Fill in all values, with these steps where ``find`` was told."""
        self._values[:] = self._expected.block.values()
        self._values[self._changed] = self._expected.view.values(self._expected.stepped(steps, self._changed))
