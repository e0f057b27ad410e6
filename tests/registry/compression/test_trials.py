"""A row of settings, and the smallest artifact within a bound that may be seen by chance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.quantization import Setting
from model_registry.compression.recipe import Recipe
from model_registry.compression.search import points_lost
from model_registry.compression.trials import Damage, Search, Trials
from model_registry.contract.content import Content
from tests.registry.networks import SMALL, foreign_onnx

STEPS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@pytest.fixture
def network(tmp_path: Path) -> SourceNetwork:
    return read_network(foreign_onnx(tmp_path / "network.onnx"), Recipe(preprocessing=SMALL))


def search(network: SourceNetwork, damages: Mapping[float, Damage], bound: float, default: Damage) -> Search:
    """The search as it goes when steps do the ``damages``, and the default and lossless what is said of them."""

    def seen(content: Content) -> Damage:
        recipe = content.manifest.lineage.recipe
        if "step" not in recipe:
            return Damage(0.0)
        return default if recipe["codebooks"] else damages[recipe["step"]]

    settings = (None, Setting(), *(Setting(step, keep_codebooks=False) for step in STEPS))
    return Trials(network, None, settings, lambda *_: None).smallest(seen, bound)


def chosen(found: Search) -> object:
    return found.content.manifest.lineage.recipe.get("step")


def test_where_damage_rises_steadily_the_coarsest_within_the_bound_is_taken(network: SourceNetwork) -> None:
    found = search(network, {step: Damage(step) for step in STEPS}, 0.65, default=Damage(0.1))
    assert chosen(found) == 0.6
    assert [point.setting for point in found.points] == ["lossless", "default", "step 0.5", "step 0.6", "step 0.7"]
    assert found.bytes == min(point.bytes for point in found.points if point.damage <= 0.65)


def test_where_damage_goes_up_and_down_by_chance_a_bad_draw_does_not_end_the_search(network: SourceNetwork) -> None:
    """Half of the row is seen to be just above the bound, and so is what it takes to come to 0.7."""
    values = dict(zip(STEPS, (0.0, 1.2, 1.1, 1.3, 1.2, 0.9, 1.4, 3.0), strict=True))
    damages = {step: Damage(value, error=0.25) for step, value in values.items()}
    assert chosen(search(network, damages, 1.0, default=Damage(0.0))) == 0.7
    certain = {step: Damage(value) for step, value in values.items()}
    assert chosen(search(network, certain, 1.0, default=Damage(0.0))) == 0.2


def test_what_may_be_within_the_bound_is_not_taken_for_it(network: SourceNetwork) -> None:
    """All settings might be within the bound, and none is; then nothing larger than the ways out is tried either."""
    found = search(network, {step: Damage(2.0, error=5.0) for step in STEPS}, 1.0, default=Damage(1.5, error=5.0))
    assert found.content.manifest.lineage.recipe["lossless"]
    found = search(network, {step: Damage(2.0, error=5.0) for step in STEPS}, 1.0, default=Damage(0.5, error=5.0))
    assert chosen(found) == Setting().step
    *tried, _ = sorted(point.bytes for point in found.points if point.setting.startswith("step"))
    assert max(tried) < found.bytes


def test_points_lost_count_what_changed_both_ways() -> None:
    before = np.array([True] * 60 + [False] * 40)
    after = before.copy()
    after[:3] = False
    after[60] = True
    lost = points_lost(before, after)
    assert lost.value == pytest.approx(2.0)
    assert lost.error == pytest.approx(2.0)
    assert points_lost(before, before) == Damage(0.0, 0.0)
