"""Offsets of a layer's rows, chosen near the base's: what moves all weights of a row at once.

Behind a ReLU all inputs are positive, so the gradient moves the weights of a row one way, and Adam moves them by alike
distances. Fitted in floats to real trainings, shifts and biases bring 93 to 99 % of what an update of all layers does to the
answers, although each weight by itself moves by much less than a step, and stretches a sixth to a half of the rest (ADR 11).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.compensation import STEP
from model_registry.compression.descent import best_levels
from model_registry.compression.goals import Choice, Goal
from model_registry.compression.lattices import Grid, Offsets
from model_registry.contract.codecs.scales import COARSEST_OCTAVE, FINEST_OCTAVE
from model_registry.contract.codecs.tensor_coding import offsets_before
from model_registry.contract.tensors import MAX_OFFSETS, EncodedTensor

Doubles = npt.NDArray[np.floating[Any]]
LARGEST = float(np.finfo(np.float16).max)
# Below this part of the strongest row's, what an offset does is rounding.
LEAST_STRENGTH = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class RowOffsets:
    """``known``: the base's shifts and stretches, (2, groups, outputs); ``moves``: by how many steps each of the two moves."""

    known: Doubles
    moves: tuple[Choice, Choice]

    @classmethod
    def of(cls, goal: Goal, base: EncodedTensor, choice: Choice) -> RowOffsets | None:
        """Those of the base; None where the rows of the layer are not those of its tensor."""
        if goal.layer.transposed:
            return None
        rows = goal.rows.shape[:2]
        before = offsets_before(base, (MAX_OFFSETS, goal.shape[0])).astype(np.float64).reshape(MAX_OFFSETS, *rows)
        known = np.where(np.isfinite(before), before, 0)
        none = np.zeros(rows, np.int64)
        signs = np.sign(choice.values)
        # float16 holds no finer step beside the largest that is known.
        finest = float(np.spacing(np.float16(min(float(np.abs(known).max(initial=0)), LARGEST / 2))))
        shift, stretch = (Choice(Grid(max(_step(goal, which), finest)), none, none) for which in (np.abs(signs), signs))
        return cls(known, (shift, stretch))

    @property
    def _halves(self) -> npt.NDArray[np.float16]:
        """Both for every row, as they are coded, (2, groups, outputs)."""
        exact = np.stack([known + moves.values for known, moves in zip(self.known, self.moves, strict=True)])
        return np.asarray(np.clip(exact, -LARGEST, LARGEST), np.float16)

    @property
    def added(self) -> Offsets:
        """To rows (groups, outputs, inputs)."""
        shift, stretch = self._halves.astype(np.float64)[..., np.newaxis]
        return Offsets.of(shift, stretch)

    @property
    def stored(self) -> npt.NDArray[np.float32]:
        """As a tensor has them: none, shifts, or shifts and stretches."""
        rows = self._halves.reshape(MAX_OFFSETS, -1).astype(np.float32)
        count = MAX_OFFSETS if rows[1].any() else int(rows[0].any())
        return rows[:count]

    def revised(self, goal: Goal, choice: Choice, biases: Doubles) -> RowOffsets:
        """The best beside these levels, for biases (groups, outputs) that will make up for the mean of what they do."""
        found, signs = self, np.sign(choice.lattice.values(choice.levels))
        for number, which in enumerate((np.abs(signs), signs)):
            moved = _moved(goal, replace(choice, offsets=found.added), biases, found.moves[number], which)
            found = replace(found, moves=(moved, found.moves[1]) if number == 0 else (found.moves[0], moved))
        return found


def _step(goal: Goal, which: Doubles) -> float:
    """A power of two above the step at which a finer one would cost more bits than it saves damage: most rows hardly move."""
    strengths = np.concatenate([_reach(goal, group, own)[0] for group, own in enumerate(which)])
    mean = float(strengths.mean())
    wanted = math.sqrt(STEP * goal.price / mean) if mean > 0 else math.inf
    return 2.0 ** math.ceil(math.log2(min(max(wanted, 2.0**FINEST_OCTAVE), 2.0**COARSEST_OCTAVE)))


def _reach(goal: Goal, group: int, which: Doubles) -> tuple[Doubles, Doubles]:
    """How much a unit of an offset disturbs that is added to weights as ``which`` says (outputs, inputs), once the bias makes
    up for its mean, and by how much it then does.
    """
    moments = goal.factors[group].moments
    reach = which @ moments[:-1]
    owed = reach[:, -1] / moments[-1, -1] if goal.bias_shape is not None else np.zeros(len(which))
    return (reach[:, :-1] * which).sum(axis=1) - owed * reach[:, -1], owed


def _moved(goal: Goal, choice: Choice, biases: Doubles, moves: Choice, which: Doubles) -> Choice:
    pricing, levels, values = goal.pricing(moves), moves.levels.copy(), choice.values
    for group, own in enumerate(which):
        strength, owed = _reach(goal, group, own)
        slopes = goal.slopes(group, values[group], biases[group])
        slope = (slopes[:, :-1] * own).sum(axis=1) - owed * slopes[:, -1]
        weak = strength <= LEAST_STRENGTH * strength.max(initial=0)
        slope, strength = np.where(weak, 0, slope), np.where(weak, 1, strength)
        levels[group] = best_levels(slope, strength, pricing, levels[group], (group,))
    return replace(moves, levels=levels)
