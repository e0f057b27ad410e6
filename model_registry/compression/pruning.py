"""Which weights go: the smallest, layer by layer, a few more at every stage.

A layer's threshold is one quality parameter, the same for the whole network, times the spread of the layer's own weights
(Han et al. 2015, arXiv 1506.02626, section 3): layers with many small weights give more of them than others. The spread is
that of the weights that are still there, so that a layer which was pruned before is not taken for one of small weights.
What is zero already counts as pruned and stays so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
# A stage keeps about this part of what the one before kept; retraining mends a third at a time.
STAGE_SHARE = 0.65


def density(weights: Mapping[str, Floats]) -> float:
    """The share of weights that are not zero; 0 where there are none."""
    total = sum(value.size for value in weights.values())
    return sum(int(np.count_nonzero(value)) for value in weights.values()) / total if total else 0.0


def schedule(now: float, wanted: float) -> tuple[float, ...]:
    """Densities to pass through from ``now`` (not among them) down to ``wanted``; none when it is reached already."""
    if now <= wanted:
        return ()
    stages = math.ceil(math.log(wanted / now) / math.log(STAGE_SHARE) - 1e-9)
    return (*(now * (wanted / now) ** (stage / stages) for stage in range(1, stages)), wanted)


def spread(values: Floats) -> float:
    """Root mean square of the values that are not zero; 0 if all are."""
    alive = values[values != 0].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(alive)))) if alive.size else 0.0


def masks(weights: Mapping[str, Floats], wanted: float) -> dict[str, Mask]:
    """True for every weight that stays, so that the share ``wanted`` of all is left, and one weight a layer at least.

    Of equally small weights the later ones go first.
    """
    total = sum(value.size for value in weights.values())
    quality = np.concatenate([_quality(value) for value in weights.values()]) if weights else np.zeros(0)
    keep = np.zeros(total, np.bool_)
    keep[np.argsort(-quality, kind="stable")[: round(wanted * total)]] = True
    result, at = {}, 0
    for name, value in weights.items():
        own, at = keep[at : at + value.size], at + value.size
        if value.size:
            own[np.abs(value).argmax()] = True
        result[name] = own.reshape(value.shape) & (value != 0)
    return result


def _quality(values: Floats) -> npt.NDArray[np.float64]:
    """Magnitudes in units of the layer's spread."""
    return np.asarray(np.abs(values.ravel()).astype(np.float64) / (spread(values) or 1.0))
