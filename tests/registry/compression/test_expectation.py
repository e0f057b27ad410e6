"""What settings are expected to do when what each is seen to do is partly chance."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from model_registry.compression.expectation import ENOUGH, OCTAVE, coarsest, halved

COUNT, FIRST = 180, 2


def row(crossing: float, rise: float, chance: float, seed: int) -> list[float]:
    """What each setting is seen to do, on average 1 at ``crossing`` and ``rise`` times more with every octave."""
    numbers, generator = np.arange(COUNT), np.random.default_rng(seed)
    seen = rise ** ((numbers - crossing) / OCTAVE) * np.exp(chance * generator.standard_normal(COUNT) - chance**2 / 2)
    return [0.0] * FIRST + [float(damage) for damage in seen[FIRST:]]


def misses(find: Callable[[list[float]], int], rise: float, chance: float) -> float:
    """By which factor the damage that is to be expected misses the bound, as a root mean square of logarithms."""
    crossings = [(seed, 50 + 1.5 * seed) for seed in range(60)]
    found = [find(row(crossing, rise, chance, seed)) - crossing for seed, crossing in crossings]
    return math.sqrt(np.mean(np.square(found))) * math.log(rise) / OCTAVE


@pytest.mark.parametrize("rise", [1.3, 1.5, 1.9])
def test_enough_settings_together_tell_twice_as_well_as_each_alone(rise: float) -> None:
    def together(damages: list[float]) -> int:
        return coarsest(COUNT, damages.__getitem__, 1.0, FIRST)

    def alone(damages: list[float]) -> int:
        return halved(COUNT, lambda number: damages[number] <= 1.0)

    assert misses(together, rise, 0.25) < 0.12
    assert misses(together, rise, 0.25) < 0.6 * misses(alone, rise, 0.25)


def test_without_chance_it_is_the_last_that_holds() -> None:
    damages = row(77.5, 1.5, 0.0, 0)
    assert coarsest(COUNT, damages.__getitem__, 1.0, FIRST) == 77


def test_few_are_looked_at_and_none_twice() -> None:
    looked: list[int] = []
    damages = row(90, 1.5, 0.25, 5)

    def look(number: int) -> float:
        looked.append(number)
        return damages[number]

    chosen = coarsest(COUNT, look, 1.0, FIRST)
    assert chosen in looked
    assert len(looked) == len(set(looked)) <= math.ceil(math.log2(COUNT)) + ENOUGH


@pytest.mark.parametrize(("crossing", "answer"), [(1000, COUNT - 1), (-1000, 1)])
def test_ends_of_the_row(crossing: float, answer: int) -> None:
    assert coarsest(COUNT, row(crossing, 1.5, 0.1, 3).__getitem__, 1.0, FIRST) == answer


def test_when_nothing_holds_but_what_always_does_that_is_the_answer() -> None:
    assert coarsest(COUNT, lambda number: float(number > 0), 0.0, FIRST) == 0


def test_a_row_that_does_nothing_is_taken_to_its_end() -> None:
    assert coarsest(COUNT, lambda _: 0.0, 0.0, FIRST) == COUNT - 1
