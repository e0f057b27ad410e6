"""How far two networks' answers lie apart: less noisy than accuracy on a small set, and it needs no labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def mean_divergence(reference: Floats, found: Floats) -> float:
    """Kullback-Leibler divergence from softmax(reference) to softmax(found), mean over rows, in nats."""
    p, q = _log_softmax(reference), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def _log_softmax(logits: Floats) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
