"""How far two networks' answers lie apart: less noisy than accuracy on a small set, and it needs no labels.

A network's answers are its outputs, each (pictures, ...). One that has a value for each of several classes is a choice, told in
logits or in probabilities: what counts is the Kullback-Leibler divergence. All others are numbers (boxes, maps, a single one):
what counts is the same divergence between normal distributions around them, as wide as the answers differ among pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
# The lead of the best answer over the second, in nats, at which a network still shows what disturbs it. ImageNet's SqueezeNet
# leads by 2.4 in the median.
TELLING_LEAD = 2.5
# How far the sum of float32 probabilities may be from 1; and what the logarithm of one is taken of that is too small for them.
ROUNDING, TINY = 1e-3, 1e-30


def total_divergences(reference: Sequence[Floats], found: Sequence[Floats], *, temperature: float = 1.0) -> Doubles:
    """Of every picture (pictures), the sum of ``divergences`` over all outputs."""
    pairs = zip(reference, found, strict=True)
    return np.asarray(np.sum([divergences(expected, own, temperature=temperature) for expected, own in pairs], axis=0))


def total_divergence(reference: Sequence[Floats], found: Sequence[Floats], *, temperature: float = 1.0) -> float:
    """The mean of ``total_divergences``."""
    return float(total_divergences(reference, found, temperature=temperature).mean())


def mean_divergence(reference: Floats, found: Floats, *, temperature: float = 1.0) -> float:
    """The mean of ``divergences``."""
    return float(divergences(reference, found, temperature=temperature).mean())


def divergences(reference: Floats, found: Floats, *, temperature: float = 1.0) -> Doubles:
    """Divergence of one output (pictures, ...) from ``reference``, for every picture, in nats.

    The logits of choices are divided by ``temperature`` first.
    """
    if _is_choice(reference):
        p, q = log_probabilities(reference, temperature=temperature), log_probabilities(found, temperature=temperature)
        # Between answers that are certain it is less than what rounding leaves of it, which may be negative.
        return np.asarray(np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0))
    wanted, own = reference.astype(np.float64), found.astype(np.float64)
    # A single picture tells no spread, and neither does an answer that is always the same.
    strength = float(np.square(wanted - wanted.mean(axis=0)).mean()) or float(np.square(wanted).mean()) or 1.0
    return np.asarray(np.square(own - wanted).reshape(len(wanted), -1).mean(axis=1) / (2 * strength))


def are_comparable(reference: Sequence[Floats], found: Sequence[Floats]) -> bool:
    """Whether these answers to the same pictures are alike, though maybe logits of more or fewer classes.

    Parts of probabilities tell nothing of a picture whose class the other network does not know.
    """
    return len(reference) == len(found) and all(
        expected.shape == own.shape or (_are_logits(expected) and _are_logits(own))
        for expected, own in zip(reference, found, strict=True)
    )


def on_shared_classes(reference: Sequence[Floats], found: Sequence[Floats]) -> tuple[list[Floats], list[Floats]]:
    """Comparable answers of networks of which one has more classes, cut to those of the other, which are the first."""
    sides = [min(expected.shape[-1], own.shape[-1]) for expected, own in zip(reference, found, strict=True)]
    reference, found = ([own[..., :side] for own, side in zip(answers, sides, strict=True)] for answers in (reference, found))
    return reference, found


def telling_temperature(reference: Sequence[Floats]) -> float:
    """The temperature at which a network that is sure of everything becomes as undecided as others are; 1 for those.

    On pictures that a network was trained on, its softmax is saturated: damage that ruins it elsewhere does not show.
    """
    leads = [_median_lead(log_probabilities(answers)) for answers in reference if _is_choice(answers)]
    return max([1.0, *(lead / TELLING_LEAD for lead in leads)])


def log_probabilities(answers: Floats, *, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Logarithms of the probabilities that ``answers`` (pictures, classes) are, or are the logits of."""
    logits = (np.log(np.maximum(answers, TINY)) if _are_probabilities(answers) else answers) / temperature
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _is_choice(answers: Floats) -> bool:
    """Values from 0 to 1 that are no distribution are answers to several questions, each of them a number."""
    if answers.ndim != 2 or answers.shape[1] < 2:
        return False
    return _are_probabilities(answers) or bool((answers < 0).any() or (answers > 1).any())


def _are_logits(answers: Floats) -> bool:
    return _is_choice(answers) and not _are_probabilities(answers)


def _are_probabilities(answers: Floats) -> bool:
    return bool((answers >= 0).all()) and bool((np.abs(answers.sum(axis=1) - 1) <= ROUNDING).all())


def _median_lead(logarithms: npt.NDArray[np.float64]) -> float:
    second, first = np.partition(logarithms, -2, axis=1)[:, -2:].T
    return float(np.median(first - second))
