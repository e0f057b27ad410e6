"""A small delta must not be an empty update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.quantization import on_base
from model_registry.compression.recipe import Recipe
from model_registry.compression.updates import LOST_LIMIT, Update, Way, lost_share, measure
from model_registry.contract.content import Content
from model_registry.contract.errors import Refusal
from model_registry.contract.full import encode_full
from model_registry.deltas import make_delta
from tests.registry.networks import changed, random_weights, save


@pytest.fixture
def base(checkpoint: Path) -> Content:
    return compress_checkpoint(checkpoint, Recipe())


def updated(tmp_path: Path, base: Content, weights: dict[str, np.ndarray], recipe: Recipe | None = None) -> Content:
    return compress_checkpoint(save(tmp_path / "new.safetensors", weights), recipe or Recipe(), base=base)


def lost(content: Content) -> float:
    return float(content.manifest.lineage.recipe["lost"])


def not_delivered(content: Content, weights: dict[str, np.ndarray], base: Content, key: str) -> float:
    shipped, before = content.weights()[key], base.weights()[key]
    return float(np.square(shipped - weights[key]).sum() / np.square(weights[key] - before).sum())


def test_the_same_weights_again_change_no_tensor(tmp_path: Path, base: Content) -> None:
    again = updated(tmp_path, base, random_weights())
    assert all(new.same_as(old) for new, old in zip(again.tensors, base.tensors, strict=True))
    assert lost(again) == 0
    assert len(make_delta(base, again).data) < 2000


@pytest.mark.parametrize("by", [0.002, 0.03, 0.5])
def test_an_update_of_any_size_arrives(tmp_path: Path, base: Content, by: float) -> None:
    weights = changed(random_weights(), "weight", by=by)
    new = updated(tmp_path, base, weights)
    assert lost(new) <= LOST_LIMIT
    for key in ("features.0.weight", "features.12.expand3x3.weight", "classifier.1.weight"):
        assert not_delivered(new, weights, base, key) <= LOST_LIMIT


def test_staying_on_the_bases_grid_would_have_lost_it(tmp_path: Path, base: Content) -> None:
    weights = changed(random_weights(), "weight", by=0.002)
    key = "features.12.expand3x3.weight"
    before = next(tensor for tensor in base.tensors if tensor.name == key)
    assert measure(weights[key], on_base(key, weights[key], before), before, nearest=True).lost > 0.5


def test_only_the_tensors_that_changed_are_touched(tmp_path: Path, base: Content) -> None:
    new = updated(tmp_path, base, changed(random_weights(), "classifier", by=0.1))
    touched = [n.name for n, o in zip(new.tensors, base.tensors, strict=True) if not n.same_as(o)]
    assert touched == ["classifier.1.weight", "classifier.1.bias"]
    assert len(make_delta(base, new).data) < 0.1 * len(encode_full(new))


def test_what_did_not_change_stays_through_a_chain(tmp_path: Path, base: Content) -> None:
    second = changed(random_weights(), "features.12", by=0.1)
    two = updated(tmp_path, base, second)
    third = changed(second, "classifier", by=0.1)
    three = updated(tmp_path, two, third)
    same = {n.name for n, o in zip(three.tensors, two.tensors, strict=True) if n.same_as(o)}
    assert "features.12.expand3x3.weight" in same
    assert "classifier.1.weight" not in same


def test_an_exact_update_has_exactly_the_new_weights(tmp_path: Path, base: Content) -> None:
    weights = changed(random_weights(), "classifier", by=0.001)
    new = updated(tmp_path, base, weights, Recipe(lossless=True))
    assert {k: v.tobytes() for k, v in new.weights().items()} == {k: v.tobytes() for k, v in weights.items()}
    assert lost(new) == 0


def test_moved_centroids_are_a_change_of_codebooks_alone(tmp_path: Path) -> None:
    entries = np.linspace(-1, 1, 32, dtype=np.float32)
    rng = np.random.default_rng(0)
    drawn = {k: rng.integers(32, size=v.shape) for k, v in random_weights().items()}
    first = {k: entries[i] if i.ndim > 1 else entries[i] * 0 for k, i in drawn.items()}
    moved = (entries + rng.normal(scale=0.02, size=32)).astype(np.float32)
    second = {k: moved[i] if i.ndim > 1 else entries[i] * 0 for k, i in drawn.items()}
    old = compress_checkpoint(save(tmp_path / "old.safetensors", first), Recipe())
    new = updated(tmp_path, old, second)
    for before, after in zip(old.tensors, new.tensors, strict=True):
        assert before.values.tobytes() == after.values.tobytes()
    # Entries go in whole steps, which cost half of what exact entries do.
    assert 0 < lost(new) < 0.01


def test_a_head_with_more_classes_is_encoded_on_its_own(tmp_path: Path, base: Content) -> None:
    weights = random_weights()
    weights["classifier.1.weight"] = np.concatenate([weights["classifier.1.weight"]] * 2)
    weights["classifier.1.bias"] = np.concatenate([weights["classifier.1.bias"]] * 2)
    new = updated(tmp_path, base, weights)
    assert new.tensors[-2].shape[0] == 10
    assert sum(n.same_as(o) for n, o in zip(new.tensors, base.tensors, strict=True)) == len(base.tensors) - 2


def without_the_smallest(weights: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    return {k: np.where(np.abs(v) > np.quantile(np.abs(v), share), v, 0) if v.ndim > 1 else v for k, v in weights.items()}


def test_what_pruning_left_arrives_beside_what_it_took(tmp_path: Path, base: Content) -> None:
    """Next to the way to zero, that of all other weights is short enough to be lost without being missed."""
    weights = without_the_smallest(changed(random_weights(), "weight", by=0.002), 0.5)
    new = updated(tmp_path, base, weights)
    assert lost(new) <= LOST_LIMIT
    shipped, before = new.weights(), base.weights()
    for key in ("features.0.weight", "features.12.expand3x3.weight", "classifier.1.weight"):
        left = weights[key] != 0
        assert not shipped[key][~left].any()
        missing, wanted = (np.square(weights[key] - own[key])[left].sum() for own in (shipped, before))
        assert missing <= LOST_LIMIT * wanted


def test_pruning_alone_does_not_mend_what_the_base_errs(tmp_path: Path, base: Content) -> None:
    new = updated(tmp_path, base, without_the_smallest(random_weights(), 0.5))
    assert 0 < lost(new) <= LOST_LIMIT
    for tensor, old in zip(new.tensors, base.tensors, strict=True):
        assert tensor.scale.tobytes() == old.scale.tobytes()
        assert not tensor.values[tensor.values != old.values].any()
    assert len(make_delta(base, new).data) < 0.1 * len(encode_full(new))


def test_a_single_weight_that_moved_takes_no_finer_steps_for_all(tmp_path: Path, base: Content) -> None:
    weights, key = without_the_smallest(random_weights(), 0.5), "features.12.expand3x3.weight"
    old = next(tensor for tensor in base.tensors if tensor.name == key)
    weights[key].flat[np.argmax(weights[key])] += 1.1 * old.scale[0]
    new = next(tensor for tensor in updated(tmp_path, base, weights).tensors if tensor.name == key)
    assert new.scale.tobytes() == old.scale.tobytes()


def test_of_a_compensated_base_no_weight_is_known_to_have_moved(base: Content) -> None:
    before = next(tensor for tensor in base.tensors if tensor.name == "features.12.expand3x3.weight")
    values = before.dequantize() + before.scale[0]
    told, untold = (measure(values, before, before, nearest=nearest) for nearest in (True, False))
    assert (told.whole, told.left.lost) == (untold.whole, 1)
    assert untold.left == Way()


def test_the_larger_share_is_what_a_network_lost(base: Content) -> None:
    pruned = Update(base.tensors[0], Way(0.1, 10), Way(0.1, 0.2))
    moved = Update(base.tensors[2], Way(0.1, 0.2), Way(0.1, 0.2))
    assert lost_share([pruned]) == 0.5
    assert lost_share([pruned, moved]) == 0.5
    assert lost_share([replace(moved, left=Way())]) == 0.5
    assert lost_share([]) == 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_as_without_a_base(tmp_path: Path, base: Content, wrong: float) -> None:
    weights = random_weights()
    weights["features.3.squeeze.weight"][0, 0] = wrong
    refusals = []
    for known in (None, base):
        with pytest.raises(Refusal) as refused:
            compress_checkpoint(save(tmp_path / "new.safetensors", weights), Recipe(), base=known)
        refusals.append(refused.value.message)
    assert refusals[0] == refusals[1]
