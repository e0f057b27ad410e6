"""A row of settings, and the smallest artifact within a bound that may be seen by chance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression.accuracy import Answers
from model_registry.compression.expectation import halved
from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.quantization import Setting
from model_registry.compression.recipe import Recipe
from model_registry.compression.trials import WAYS_OUT, Look, Search, Trials
from model_registry.contract.content import Content
from tests.registry.networks import SMALL, foreign_onnx

STEPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.fixture
def network(tmp_path: Path) -> SourceNetwork:
    return read_network(foreign_onnx(tmp_path / "network.onnx"), Recipe(preprocessing=SMALL))


def search(
    network: SourceNetwork,
    damages: Mapping[float, float],
    bound: float,
    default: float,
    expected: Mapping[float, float] | None = None,
) -> Search:
    """The search as it goes when steps do the ``damages``, and lossless none; ``expected``: what they promise to do."""

    def promising(look: Look) -> int:
        def holds(number: int) -> bool:
            if expected is None or number < WAYS_OUT:
                return look(number).damage <= bound
            return expected[STEPS[number - WAYS_OUT]] <= bound

        return halved(WAYS_OUT + len(STEPS), holds)

    return trials(network, damages).smallest(damage_by(damages, default), bound, promising)


def trials(network: SourceNetwork, steps: Iterable[float]) -> Trials:
    row = {f"step {step:g}": Setting(step, keep_codebooks=False) for step in steps}
    return Trials(network, None, {"lossless": None, "default": Setting(), **row}, lambda *_: None)


def damage_by(damages: Mapping[float, float], default: float) -> Callable[[Content], float]:
    def damage(content: Content) -> float:
        recipe = content.manifest.lineage.recipe
        if "step" not in recipe:
            return 0.0
        return default if recipe["codebooks"] else damages[recipe["step"]]

    return damage


def chosen(found: Search) -> object:
    return found.content.manifest.lineage.recipe.get("step")


STEADY = {step: step for step in STEPS}


def test_where_damage_rises_steadily_the_coarsest_within_the_bound_is_taken(network: SourceNetwork) -> None:
    found = search(network, STEADY, 0.75, default=0.1)
    assert chosen(found) == 0.7
    assert {point.setting for point in found.points} == {"lossless", "default", "step 0.5", "step 0.7", "step 0.8"}
    assert found.bytes == min(point.bytes for point in found.points if point.damage <= 0.75)


UNEVEN = dict(zip(STEPS, (0.0, 1.2, 1.1, 1.3, 1.2, 0.9, 1.4, 0.8), strict=True))


def test_a_bad_draw_does_not_end_the_search(network: SourceNetwork) -> None:
    """Half of the row is seen to be just above the bound, and so is all that leads to 0.7."""
    assert chosen(search(network, UNEVEN, 0.95, default=0.0, expected=STEADY)) == 0.9
    assert chosen(search(network, UNEVEN, 0.95, default=0.0)) == 0.2


def test_a_lucky_draw_is_not_taken(network: SourceNetwork) -> None:
    """0.9 is seen to be within the bound, and expected not to be."""
    assert chosen(search(network, UNEVEN, 0.95, default=0.0, expected={step: 1.2 * step for step in STEPS})) == 0.7


def test_what_is_larger_than_the_ways_out_is_not_tried(network: SourceNetwork) -> None:
    """All settings are expected to be within the bound, and none is."""
    never, expected = dict.fromkeys(STEPS, 2.0), dict.fromkeys(STEPS, 0.0)
    found = search(network, never, 1.0, default=1.5, expected=expected)
    assert found.content.manifest.lineage.recipe["lossless"]
    found = search(network, never, 1.0, default=0.5, expected=expected)
    assert chosen(found) == Setting().step
    *smaller, _ = sorted(point.bytes for point in found.points if point.setting.startswith("step"))
    assert max(smaller) < found.bytes


def test_what_was_seen_to_do_more_than_the_limit_is_not_taken_even_if_it_promised_to_do_less(network: SourceNetwork) -> None:
    seen_of = damage_by(STEADY | {0.6: 0.8, 0.5: 0.71}, default=0.1)
    assert chosen(trials(network, STEPS).smallest(seen_of, 0.7, lambda _: WAYS_OUT + STEPS.index(0.6))) == 0.4


def test_far_beyond_the_limit_the_row_is_not_gone_through_one_by_one(network: SourceNetwork) -> None:
    steps = [round(0.2 + 0.02 * number, 2) for number in range(40)]
    damages = {step: 1.04**number for number, step in enumerate(steps)}
    for limit in (1.5, 3.0):
        found = trials(network, steps).smallest(damage_by(damages, default=9.0), limit, lambda _: WAYS_OUT + len(steps) - 1)
        assert chosen(found) == max(step for step, damage in damages.items() if damage <= limit)
        assert len(found.points) < 12


def test_points_lost_count_what_changed_both_ways() -> None:
    before, after = right_in(60), right_in(60)
    after = after.where(np.arange(100) >= 3, right_in(0)).where(np.arange(100) != 60, right_in(100))
    assert before.lost_in(after) == pytest.approx(2.0)
    assert before.lost_in(before) == 0.0


def test_the_right_answer_becomes_less_likely_give_or_take_what_chance_does() -> None:
    before = right_in(60)
    each = float(before.likely[0] - before.likely[99])
    fall, chance = before.fall_to(right_in(56))
    assert fall == pytest.approx(4 * each)
    # Four of a hundred pictures that turn or not, each by itself: give or take two.
    assert chance == pytest.approx(100 * each * np.sqrt(0.04 * 0.96 / 100))
    assert right_in(56).fall_to(before)[0] == pytest.approx(-4 * each)


def right_in(pictures: int) -> Answers:
    """Answers to 100 pictures, of which so many, the first, are right."""
    logits = np.zeros((100, 4), np.float32)
    logits[:pictures, 1], logits[pictures:, 2] = 4.0, 4.0
    return Answers.of(logits, np.ones(100, np.intp))
