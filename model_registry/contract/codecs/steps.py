"""The distance from a predicted symbol, as a number that is small where little changes.

Symbols are taken around their alphabet, and "becomes zero" stands second after "stays", so that pruning is cheap.
"""

from __future__ import annotations

import numpy as np

from model_registry.contract.entropy import Integers


def to_steps(symbols: Integers, predicted: Integers, alphabet: int, zero: int) -> Integers:
    """Steps around the alphabet, zigzag-coded; the step to ``zero`` (if there is one) comes second."""
    symbols, predicted = symbols.astype(np.int16), predicted.astype(np.int16)
    steps, second = _fold(symbols - predicted, alphabet), _second(predicted, alphabet, zero)
    return np.where((steps == second) & (second > 0), 1, np.where((steps >= 1) & (steps < second), steps + 1, steps))


def from_steps(steps: Integers, predicted: Integers, alphabet: int, zero: int) -> Integers:
    """The inverse of ``to_steps``."""
    # Of every symbol once: there are fewer than changes.
    second = _second(np.arange(alphabet, dtype=np.int16), alphabet, zero)[predicted]
    steps, predicted = steps.astype(np.int16), predicted.astype(np.int16)
    plain = steps - ((steps >= 2) & (steps <= second))
    np.copyto(plain, second, where=(steps == 1) & (second > 0))
    return (predicted + ((plain >> 1) ^ -(plain & 1))) % alphabet


def _fold(distance: Integers, alphabet: int) -> Integers:
    """The shorter way around, zigzag-coded; an alphabet has at most 256 symbols."""
    half = alphabet // 2
    folded = (distance + half) % alphabet - half
    return (folded << 1) ^ (folded >> 15)


def _second(predicted: Integers, alphabet: int, zero: int) -> Integers:
    """The zigzag step that leads to zero; 0 where the prediction is zero already or there is no zero."""
    return _fold(zero - predicted, alphabet) if zero >= 0 else np.zeros_like(predicted)
