"""Which weights go: the smallest of each layer, a few more at every stage.

How many a layer gives follows from one threshold for the whole network on a score in which layers compare: a weight's square
over the sum of the squares of all weights of its layer that are not smaller, the share of the layer's output that goes with
it if it goes next (Lee et al. 2021, arXiv 2010.07611, section 2). Small layers, which everything passes through, keep more
of their weights, none is emptied, and the scale of a layer does not matter. What is zero already stays so.
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
    """True for every weight that stays, so that the share ``wanted`` of all is left; of equal weights the later go first."""
    total = sum(value.size for value in weights.values())
    scores = np.concatenate([_scores(value) for value in weights.values()])
    keep = np.zeros(total, np.bool_)
    keep[np.argsort(-scores, kind="stable")[: max(round(wanted * total), len(weights))]] = True
    result, at = {}, 0
    for name, value in weights.items():
        result[name] = keep[at : at + value.size].reshape(value.shape) & (value != 0)
        at += value.size
    return result


def _scores(values: Floats) -> npt.NDArray[np.float64]:
    """From 0 to 1 for each weight; the largest of a layer has 1."""
    squares = np.square(values.ravel().astype(np.float64))
    order = np.argsort(-squares, kind="stable")
    scores = np.zeros(squares.size)
    scores[order] = squares[order] / np.maximum(np.cumsum(squares[order]), np.finfo(np.float64).tiny)
    return scores
