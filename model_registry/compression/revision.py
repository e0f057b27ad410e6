"""A layer's new weights, near the base's: what is priced is the change, as a delta will code it.

Several lattices compete: the base's codebook, that codebook with entries moved to where their weights went (a grid of few
levels is one, too), and a grid; where the base has a grid, its step is halved as often as the price asks or once less, so that
"no change" is exact. The layer is settled on each, and the one is taken for which damage + price x the bits that the coder
asks is least. Biases are one more column, on the base's grid of biases.

A delta is a low-rate code, where most weights keep their level, and what one change costs hangs on how many others there are.
So coordinate descent (descent.py), which goes over the weights many times, starts from no change at all: from levels that were
rounded near to what is wanted it comes to rest among many changes that are cheap because they are many (25 kB of a head that
takes 270 bytes). Where training pruned there is a second draft, in which that is gone already: "all that are small" is told in
a few bytes where each by itself is not worth its own. What the base does not have, and biases, start near to what is wanted; so
does one more draft of the layer on the finest grid, for layers that become others altogether.

Offsets of rows (offsets.py) come first, which take least, and are revised with the levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.calibration import Calibrated
from model_registry.compression.compensation import (
    PASSES,
    storable_step,
    wanted_bias_step,
    wanted_step,
)
from model_registry.compression.descent import best_levels, sweep
from model_registry.compression.goals import Choice, Goal
from model_registry.compression.lattices import Codebook, Grid, Integers
from model_registry.compression.offsets import RowOffsets
from model_registry.compression.quantization import GRIDS, LARGEST_LEVEL, MAX_ENTRIES, Floats, grid_tensor
from model_registry.contract.codecs.prediction import overlap
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.codecs.tensor_coding import encode_tensor
from model_registry.contract.entropy import COST_UNIT
from model_registry.contract.tensors import EncodedTensor, Encoding

Doubles = npt.NDArray[np.floating[Any]]
Booleans = npt.NDArray[np.bool_]
# Over the weights on every lattice, and once more on the best, at most.
SWEEPS, LAST_SWEEPS = 4, 12
# What float32 tells apart: where nothing depends on a layer, no step would be too coarse.
MAX_DOUBLINGS = 24


@dataclass(frozen=True, slots=True, eq=False)
class _Draft:
    """The layer as it has become so far, its ``offsets`` aside."""

    plain: Choice
    biases: Choice
    offsets: RowOffsets | None

    @property
    def choice(self) -> Choice:
        return self.plain if self.offsets is None else replace(self.plain, offsets=self.offsets.added)

    def rests(self, before: _Draft) -> bool:
        """Whether to go over it once more would find nothing that was not found from ``before``."""
        return all(np.array_equal(now.levels, then.levels) for now, then in zip(self._chosen, before._chosen, strict=True))

    @property
    def _chosen(self) -> tuple[Choice, ...]:
        return (self.plain, self.biases, *(self.offsets.moves if self.offsets else ()))


@dataclass(frozen=True, slots=True, eq=False)
class _Finished:
    """A layer's ``bias``, the ``damage`` that is left, and the ``bits`` for both tensors; ``price`` of a bit."""

    bias: EncodedTensor | None
    damage: float
    bits: float
    price: float

    @property
    def cost(self) -> float:
        return self.damage + self.price * self.bits


def revise_layer(
    calibrated: Calibrated,
    weight: Floats,
    bias: Floats | None,
    *,
    base: EncodedTensor,
    base_bias: EncodedTensor | None,
    price: float,
    trained: Floats | None = None,
) -> tuple[EncodedTensor, EncodedTensor | None]:
    """Encode a layer for ``price`` nats a bit, near ``base`` and ``base_bias``, which may have other sizes, not other ranks.

    ``trained``: the weights as training left them, where those that are wanted here are others.
    """
    goal = Goal.of(calibrated, weight, bias, price)
    biases, *kept = _bias_choices(goal, base_bias)
    before = goal.layer.rows(_overlap(base.without_offsets(), weight.shape))
    gone = goal.layer.rows(weight if trained is None else trained) == 0
    has = goal.layer.rows(_overlap(np.ones(base.shape, np.float32), weight.shape)) > 0

    def finished(draft: _Draft) -> tuple[EncodedTensor, _Finished]:
        levels = goal.layer.weight_of(draft.plain.levels, goal.shape)
        tensor = _tensor(goal.layer.weight, levels, draft.plain.lattice, base)
        if draft.offsets is not None:
            tensor = replace(tensor, offsets=draft.offsets.stored)
        owed = _cheapest_biases(goal, draft.choice.values, [draft.biases, *kept], base_bias)
        return tensor, replace(owed, bits=owed.bits + _coded_bits(base, tensor))

    starts = _starts(wanted_step(calibrated, goal.factors, price), goal.rows, before, base)
    starts = [begun for start in starts for begun in _begun(start, goal.rows, gone, has)]
    finest = min(starts, key=lambda start: start.lattice.step if isinstance(start.lattice, Grid) else math.inf)
    anew = replace(finest, levels=finest.lattice.nearest(goal.rows))
    drafts = [_drafted(goal, start, biases, RowOffsets.of(goal, base, start)) for start in (*starts, anew)]
    best = min((_swept(goal, draft, SWEEPS) for draft in drafts), key=lambda draft: finished(draft)[1].cost)
    tensor, chosen = finished(_swept(goal, best, LAST_SWEEPS))
    return tensor, chosen.bias


def revise_bias(
    calibrated: Calibrated, weight: Floats, bias: Floats, *, base: EncodedTensor, base_bias: EncodedTensor | None, price: float
) -> EncodedTensor | None:
    """The bias alone, where the weight stays what it is in ``base``, of the same shape."""
    goal = Goal.of(calibrated, weight, bias, price)
    kept = calibrated.layer.rows(base.dequantize().astype(np.float64))
    return _cheapest_biases(goal, kept, _bias_choices(goal, base_bias), base_bias).bias


def _starts(wanted: float, rows: Doubles, before: Doubles, base: EncodedTensor) -> list[Choice]:
    """Nothing changed yet: on the base's codebook, on that codebook moved, or on grids; ``before``: the base's weights."""
    starts = [_unchanged(grid, before) for grid in _grids(wanted, rows, before, base)]
    entries = _entries(base)
    if entries is None:
        return starts
    book = Codebook(entries)
    kept = _unchanged(book, before)
    starts.append(replace(kept, lattice=_moved(book, kept.base, rows)))
    return [kept, *starts] if base.encoding is Encoding.CODEBOOK else starts


def _begun(start: Choice, rows: Doubles, gone: Booleans, has: Booleans) -> Iterator[Choice]:
    """With the levels of the base where it ``has`` some; and once more without the weights that training pruned since."""
    lattice, levels = start.lattice, np.where(has, start.base, start.lattice.nearest(rows))
    yield replace(start, levels=levels)
    # A codebook may have no zero, and a compensated base gives weights that were zero before a little, too.
    pruned = gone & has & (np.abs(lattice.values(levels)) > np.abs(lattice.values(np.array(lattice.zero))))
    if pruned.any():
        yield replace(start, levels=np.where(pruned, lattice.zero, levels))


def _entries(base: EncodedTensor) -> Doubles | None:
    """The values that the base's weights have, in rising order, where an index of 8 bits tells them apart."""
    if not np.isfinite(base.scale).all() or not base.values.size:
        return None
    if base.encoding is Encoding.CODEBOOK:
        return np.sort(base.scale).astype(np.float64)
    step = _step(base)
    if step is None:
        return None
    levels = np.arange(int(base.values.min()), int(base.values.max()) + 1)
    return levels * step if levels.size <= MAX_ENTRIES else None


def _step(base: EncodedTensor) -> float | None:
    """Of a grid that is the same for all rows; None where there is none that weights could be multiples of."""
    if base.encoding not in GRIDS or base.scale.size != 1:
        return None
    step = float(base.scale[0])
    return step if math.isfinite(step) and step > 0 else None


def _unchanged(lattice: Codebook | Grid, before: Doubles) -> Choice:
    levels = lattice.nearest(before)
    return Choice(lattice, levels, levels)


def _grids(wanted: float, rows: Doubles, before: Doubles, base: EncodedTensor) -> list[Grid]:
    """The base's grid with its step halved until it is about as fine as wanted, and once less; or one of our own."""
    largest = float(max(np.abs(rows).max(initial=0), np.abs(before).max(initial=0))) or 1.0
    own = storable_step(wanted, largest)
    halved = [_halved(base, step, largest) for step in (own, 2 * own)]
    return list(dict.fromkeys(grid for grid in halved if grid)) or [Grid(own)]


def _moved(book: Codebook, levels: Integers, rows: Doubles) -> Codebook:
    """Every entry but zero where its weights went on average: training with momentum moves many of them alike.

    In steps of a power of two, an eighth to a quarter of the rms move, and in the same order, so that ranks keep their meaning.
    """
    entries, size = book.entries, book.entries.size
    counts = np.maximum(np.bincount(levels.ravel(), minlength=size), 1)
    moves = np.bincount(levels.ravel(), weights=(rows - entries[levels]).ravel(), minlength=size) / counts
    moves[entries == 0] = 0
    rms = float(np.sqrt(np.vdot(moves * counts, moves) / counts.sum()))
    step = 2.0 ** (np.frexp(rms)[1] - 3)
    with np.errstate(over="ignore"):
        moved = (entries + np.rint(moves / step) * step).astype(np.float16).astype(np.float64)
    if not np.isfinite(moved).all():
        return book
    moved = np.where(entries < 0, np.minimum(moved, 0), np.where(entries > 0, np.maximum(moved, 0), 0))
    return Codebook(np.maximum.accumulate(moved))


def _overlap(weights: Floats, shape: tuple[int, ...]) -> Doubles:
    """The base's weights laid over the new shape; what it does not have, or what is no number, is zero there."""
    shared = overlap(weights.shape, shape)
    laid: Doubles = np.zeros(shape)
    laid[shared] = weights[shared]
    return np.where(np.isfinite(laid), laid, 0)


def _bias_choices(goal: Goal, base: EncodedTensor | None) -> Iterator[Choice]:
    """On the grid of the base's biases, the step halved or doubled as the price asks, or on one of 8 bits without a base.

    A bias that makes up for its weights may go further than all before, so a grid made for those can be far too fine. Behind
    that comes no change at all, on the base's own grid and on that one where it is finer.
    """
    largest = float(np.abs(goal.bias).max(initial=0)) or 1.0
    known: Doubles = np.zeros(goal.bias.shape)
    own = None
    if base is not None and goal.bias_shape is not None and len(base.shape) == len(goal.bias_shape):
        known, own = _overlap(base.dequantize(), goal.bias_shape).reshape(known.shape), _step(base)
    step = own or float(np.float32(largest / 127))
    octaves = math.log2(wanted_bias_step(goal.factors, goal.price) / step)
    octave = min(round(octaves) if octaves < 0 else math.floor(octaves), MAX_DOUBLINGS)
    # So that 16 bits, or without a grid of the base 8, reach the largest.
    octave = max(octave, math.ceil(math.log2(largest / LARGEST_LEVEL / step)) if own else 0)
    grid = Grid(float(np.float32(step * 2.0**octave)))
    yield Choice(grid, grid.nearest(known), grid.nearest(goal.bias))
    yield _unchanged(Grid(step), known)
    if octave < 0:
        yield _unchanged(grid, known)


def _halved(base: EncodedTensor, wanted: float, largest: float) -> Grid | None:
    """The base's grid with its step halved until it is no coarser than ``wanted``, if 16 bits then reach ``largest``."""
    coarse = _step(base)
    if coarse is None:
        return None
    halvings = max(round(np.log2(coarse / max(wanted, largest / LARGEST_LEVEL))), 0)
    return Grid(float(np.float32(coarse / 2**halvings))) if largest <= LARGEST_LEVEL * coarse / 2**halvings else None


def _drafted(goal: Goal, start: Choice, biases: Choice, offsets: RowOffsets | None) -> _Draft:
    """Offsets first, as they cost least."""
    draft = _Draft(start, biases, offsets)
    if offsets is not None:
        for _ in range(PASSES):
            offsets = offsets.revised(goal, start, draft.biases.values)
            draft = replace(draft, offsets=offsets)
            draft = replace(draft, biases=_beside(goal, draft.choice.values, draft.biases))
    return draft


def _swept(goal: Goal, draft: _Draft, sweeps: int) -> _Draft:
    """Go over all weights and biases until they rest, so many times at most."""
    for _ in range(sweeps):
        before = draft
        plain = replace(draft.plain, levels=_sweep(goal, draft.choice, draft.biases.values))
        offsets = draft.offsets and draft.offsets.revised(goal, plain, draft.biases.values)
        draft = _Draft(plain, draft.biases, offsets)
        draft = replace(draft, biases=_beside(goal, draft.choice.values, draft.biases))
        if draft.rests(before):
            break
    return draft


def _coded_bits(base: EncodedTensor | None, new: EncodedTensor) -> float:
    """What the coder of deltas asks for a tensor."""
    sink = Sink()
    encode_tensor(base, new, sink)
    return sink.cost / COST_UNIT


def _sweep(goal: Goal, choice: Choice, biases: Doubles) -> Integers:
    """The levels when all weights have been gone over once."""
    pricing, levels = goal.pricing(choice), choice.levels.copy()
    for group, factor in enumerate(goal.factors):
        slopes = goal.slopes(group, choice.values[group], biases[group])
        sweep(slopes, factor.moments, pricing, levels[group], group)
    return levels


def _cheapest_biases(goal: Goal, weights: Doubles, choices: Iterable[Choice], base: EncodedTensor | None) -> _Finished:
    """The best that one of ``choices`` becomes beside ``weights``."""
    if goal.bias_shape is None or goal.layer.bias is None:
        return _Finished(None, goal.damage(weights, goal.bias), 0.0, goal.price)
    ways = []
    for start in choices:
        biases = start
        for _ in range(SWEEPS):
            biases = _beside(goal, weights, biases)
        tensor = _tensor(goal.layer.bias, biases.levels.reshape(goal.bias_shape), biases.lattice, base)
        ways.append(_Finished(tensor, goal.damage(weights, biases.values), _coded_bits(base, tensor), goal.price))
    return min(ways, key=lambda way: way.cost)


def _beside(goal: Goal, weights: Doubles, biases: Choice) -> Choice:
    """The best biases beside ``weights``, where the layer has any."""
    if goal.bias_shape is None:
        return biases
    pricing, levels = goal.pricing(biases), biases.levels.copy()
    for group, factor in enumerate(goal.factors):
        slopes = goal.bias_slopes(group, weights[group], biases.values[group])
        strength = float(factor.moments[-1, -1])
        levels[group] = best_levels(slopes, strength, pricing, levels[group], (group,))
    return replace(biases, levels=levels)


def _tensor(name: str, levels: Integers, lattice: Codebook | Grid, base: EncodedTensor | None) -> EncodedTensor:
    if isinstance(lattice, Grid):
        return grid_tensor(name, levels, lattice.step)
    # A codebook keeps its order, so that an index means the same in both.
    ordered = base.scale if base is not None and base.encoding is Encoding.CODEBOOK else lattice.entries
    places = np.argsort(ordered, kind="stable")
    entries = np.empty(places.size, np.float32)
    entries[places] = lattice.entries
    return EncodedTensor(name, Encoding.CODEBOOK, places[levels].astype(np.uint8), entries)
