"""The distance from a predicted symbol, as a number that is small where little changes.

Symbols are taken around their alphabet, and "becomes zero" stands second after "stays", so that pruning is cheap. ``signs`` are
1, or -1 where distances are seen in a mirror; None: 1 everywhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_registry.contract.entropy import Integers, unzigzag

Signs = npt.NDArray[np.int8]


def to_steps(symbols: Integers, predicted: Integers, alphabet: int, zero: int, signs: Signs | None = None) -> Integers:
    """Steps around the alphabet, zigzag-coded; the step to ``zero`` (if there is one) comes second."""
    symbols, predicted = symbols.astype(np.int16), predicted.astype(np.int16)
    steps = _fold(mirrored(symbols - predicted, signs), alphabet)
    second = _second(predicted, alphabet, zero, signs)
    return np.where((steps == second) & (second > 0), 1, np.where((steps >= 1) & (steps < second), steps + 1, steps))


def from_steps(steps: Integers, predicted: Integers, alphabet: int, zero: int, signs: Signs | None = None) -> Integers:
    """The inverse of ``to_steps``."""
    predicted = predicted.astype(np.int16)
    second = _seconds(predicted, alphabet, zero, signs)
    plain: npt.NDArray[np.int16] = steps.astype(np.int16) - ((steps >= 2) & (steps <= second))
    np.copyto(plain, second, where=(steps == 1) & (second > 0))
    return (predicted + mirrored(unzigzag(plain), signs)) % alphabet


def mirrored(distances: Integers, signs: Signs | None) -> Integers:
    """Distances with the sign turned where ``signs`` is -1; its own inverse."""
    return distances if signs is None else distances * signs


def _fold(distance: Integers, alphabet: int) -> Integers:
    """The shorter way around, zigzag-coded; an alphabet has at most 256 symbols."""
    half = alphabet // 2
    folded = (distance + half) % alphabet - half
    return (folded << 1) ^ (folded >> 15)


def _second(predicted: Integers, alphabet: int, zero: int, signs: Signs | None) -> Integers:
    """The zigzag step that leads to zero; 0 where the prediction is zero already or there is no zero."""
    return _fold(mirrored(zero - predicted, signs), alphabet) if zero >= 0 else np.zeros_like(predicted)


def _seconds(predicted: Integers, alphabet: int, zero: int, signs: Signs | None) -> Integers:
    """As ``_second``, which is asked once for every symbol and direction: there are fewer than changes."""
    every = np.arange(alphabet, dtype=np.int16)
    if signs is None:
        return np.asarray(_second(every, alphabet, zero, None)[predicted])
    listed = _second(np.tile(every, 2), alphabet, zero, np.repeat(np.array([1, -1], np.int8), alphabet))
    return np.asarray(listed[predicted + (signs < 0) * np.int16(alphabet)])
