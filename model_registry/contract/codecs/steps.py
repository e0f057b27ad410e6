"""The distance from a predicted symbol, as a number that is small where little changes.

Symbols are taken around their alphabet, and "becomes zero" stands second after "stays", so that pruning is cheap. Where symbols
go ``down``, distances are seen in a mirror.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model_registry.contract.entropy import Integers, unzigzag

Flags = npt.NDArray[np.bool_]


def to_steps(symbols: Integers, predicted: Integers, alphabet: int, zero: int, down: Flags | None = None) -> Integers:
    """Steps around the alphabet, zigzag-coded; the step to ``zero`` (if there is one) comes second."""
    symbols, predicted = symbols.astype(np.int16), predicted.astype(np.int16)
    steps, second = _fold(mirrored(symbols - predicted, down), alphabet), _second(predicted, alphabet, zero, down)
    return np.where((steps == second) & (second > 0), 1, np.where((steps >= 1) & (steps < second), steps + 1, steps))


def from_steps(steps: Integers, predicted: Integers, alphabet: int, zero: int, down: Flags | None = None) -> Integers:
    """The inverse of ``to_steps``."""
    predicted = predicted.astype(np.int16)
    listed = predicted if down is None else np.where(down, predicted + np.int16(alphabet), predicted)
    second = _listed_seconds(alphabet, zero, down)[listed]
    plain: npt.NDArray[np.int16] = steps.astype(np.int16) - ((steps >= 2) & (steps <= second))
    np.copyto(plain, second, where=(steps == 1) & (second > 0))
    return (predicted + mirrored(unzigzag(plain), down)) % alphabet


def mirrored(distances: Integers, down: Flags | None) -> Integers:
    """Distances as seen by symbols that go ``down`` or not, and back."""
    return distances if down is None else np.where(down, -distances, distances)


def _fold(distance: Integers, alphabet: int) -> Integers:
    """The shorter way around, zigzag-coded; an alphabet has at most 256 symbols."""
    half = alphabet // 2
    folded = (distance + half) % alphabet - half
    return (folded << 1) ^ (folded >> 15)


def _second(predicted: Integers, alphabet: int, zero: int, down: Flags | None) -> Integers:
    """The zigzag step that leads to zero; 0 where the prediction is zero already or there is no zero."""
    return _fold(mirrored(zero - predicted, down), alphabet) if zero >= 0 else np.zeros_like(predicted)


def _listed_seconds(alphabet: int, zero: int, down: Flags | None) -> Integers:
    """Of every symbol, and behind these in the mirror: there are fewer than changes."""
    every = np.arange(alphabet, dtype=np.int16)
    if down is None:
        return _second(every, alphabet, zero, None)
    return _second(np.tile(every, 2), alphabet, zero, np.repeat([False, True], alphabet))
