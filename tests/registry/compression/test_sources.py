"""Of which tensors the floats did not change since the base, as far as its recipe tells."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression.sources import KEY, Run, Sources, unchanged
from model_registry.contract.content import Content
from model_registry.contract.manifest import Lineage
from model_registry.contract.tensors import float32_tensor
from tests.contract.contents import manifest

Weights = dict[str, npt.NDArray[np.float32]]


def network(count: int = 12, *, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return {f"t{i}": rng.standard_normal((2, 3)).astype(np.float32) for i in range(count)}


def retrained(weights: Weights, *names: str) -> Weights:
    return {name: value + np.float32(0.01) if name in names else value for name, value in weights.items()}


def released(weights: Weights, base: Content | None = None) -> Content:
    recipe = {KEY: Sources.of(weights, base).to_json()}
    tensors = tuple(float32_tensor(name, value) for name, value in weights.items())
    return Content(replace(manifest(), lineage=Lineage(recipe=recipe)), b"", tensors)


def runs(content: Content) -> list[int]:
    return [count for count, _ in content.manifest.lineage.recipe[KEY]]


def test_a_version_without_a_base_tells_of_each_tensor() -> None:
    weights = network()
    base = released(weights)
    assert runs(base) == [1] * 12
    changed = retrained(weights, "t3", "t4", "t11")
    assert set(unchanged(changed, base)) == set(weights) - {"t3", "t4", "t11"}


def test_what_an_update_changes_is_told_in_runs_that_grow_from_the_end() -> None:
    first = network(20)
    second = released(retrained(first, *first), released(first))
    assert runs(second) == [4, 8, 4, 2, 1, 1]
    assert set(unchanged(retrained(first, *first), second)) == set(first)


def test_after_an_update_of_all_the_head_alone_can_change() -> None:
    first = network(20)
    all_moved = retrained(first, *first)
    second = released(all_moved, released(first))
    head_moved = retrained(all_moved, "t18", "t19")
    assert set(unchanged(head_moved, second)) == set(first) - {"t18", "t19"}
    third = released(head_moved, second)
    assert runs(third) == [4, 8, 4, 2, 1, 1]
    assert third.manifest.lineage.recipe[KEY][:4] == second.manifest.lineage.recipe[KEY][:4]


def test_what_shares_a_digest_with_something_that_changed_counts_as_changed() -> None:
    first = network(20)
    all_moved = retrained(first, *first)
    second = released(all_moved, released(first))
    assert set(unchanged(retrained(all_moved, "t0"), second)) == {f"t{i}" for i in range(4, 20)}


def test_what_an_update_leaves_alone_keeps_its_own_digest() -> None:
    first = network()
    second = released(retrained(first, "t10", "t11"), released(first))
    assert runs(second) == [1] * 12
    assert second.manifest.lineage.recipe[KEY][:10] == released(first).manifest.lineage.recipe[KEY][:10]


def test_tensors_that_came_or_went_or_moved_hide_no_others() -> None:
    weights = network()
    base = released(weights)
    fresh = np.ones(3, np.float32)
    changed = {"fresh": fresh, **{name: value for name, value in weights.items() if name != "t5"}}
    assert set(unchanged(changed, base)) == set(weights) - {"t5"}
    assert runs(released(changed, base)) == [1] * 12


def test_a_run_whose_tensors_are_no_longer_neighbours_is_unknown() -> None:
    first = network(20)
    all_moved = retrained(first, *first)
    second = released(all_moved, released(first))
    names = list(all_moved)
    names.insert(2, "between")
    apart = {name: all_moved.get(name, np.zeros(2, np.float32)) for name in names}
    assert set(unchanged(apart, second)) == {f"t{i}" for i in range(4, 20)}
    assert sum(runs(released(apart, second))) == 21


def test_another_shape_of_the_same_bytes_is_another_tensor() -> None:
    weights = network(1)
    assert not unchanged({"t0": weights["t0"].reshape(3, 2)}, released(weights))


def test_a_base_of_before_there_were_runs_tells_of_each_tensor() -> None:
    weights = network(3)
    digests = bytes.fromhex("".join(Run.of([name], weights).digest for name in weights))
    base = released(weights)
    old = replace(base, manifest=replace(base.manifest, lineage=Lineage(recipe={KEY: base64.b64encode(digests).decode()})))
    assert set(unchanged(retrained(weights, "t1"), old)) == {"t0", "t2"}
    assert runs(released(retrained(weights, "t2"), old)) == [1, 1, 1]


@pytest.mark.parametrize(
    "told",
    ["AAAABBBB", "AA", "é", 7, None, [[1]], [["x", "aabbcc"]], [[-1, "aabbcc"]], [[99, "aabbcc"]], [[1, 5]], [[True, None]]],
)
def test_a_recipe_that_tells_something_else_tells_nothing(told: Any) -> None:
    weights = network(3)
    base = released(weights)
    other = replace(base, manifest=replace(base.manifest, lineage=Lineage(recipe={KEY: told})))
    assert not unchanged(weights, other)
    assert runs(released(weights, other)) == [1, 1, 1]
