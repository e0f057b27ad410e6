"""What the three versions are: the network, how its pictures are prepared, and how each version comes out of the one before.

1.0.0  learns all signs but the last in clear weather, and is pruned on the way.
2.0.0  the weekly retrain: every layer moves a little, so that the same signs are known in winter, too.
3.0.0  a sign more: the head alone learns the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from examples.signs.disturbance import CLEAR, HARSH, Disturbance
from examples.signs.learning import Schedule
from examples.signs.render import SIDE
from model_registry.contract.preprocessing import Preprocessing

FAMILY = "signs"
ARCHITECTURE = "squeezenet1_1"
PREPROCESSING = Preprocessing((SIDE, SIDE), None, "RGB", (112.0, 112.0, 112.0), (1 / 64, 1 / 64, 1 / 64))


@dataclass(frozen=True, slots=True)
class Stage:
    """One version; ``withheld`` labels at the end of the list are not learned yet."""

    version: str
    disturbances: tuple[Disturbance, ...]
    withheld: int
    schedule: Schedule


STAGES = (
    Stage("1.0.0", (CLEAR,), 1, Schedule(epochs=18, rate=1e-3, density=0.25, prune_from=5, prune_to=12)),
    Stage("2.0.0", (CLEAR, HARSH), 1, Schedule(epochs=3, rate=3e-4)),
    Stage("3.0.0", (CLEAR, HARSH), 0, Schedule(epochs=2, rate=3e-3, trainable=("classifier.",))),
)
