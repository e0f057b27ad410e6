"""Deltas between networks that are not the same network any more: other heads, layers, input sizes and graphs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.full import encode_full
from model_registry.contract.preprocessing import Preprocessing
from model_registry.deltas import make_delta
from model_registry.models.checkpoints import Description, Weights
from model_registry.models.safetensors_file import write_safetensors
from tests.registry.networks import SMALL, foreign_onnx, random_weights

HEAD = "classifier.1"
RECIPES = [Recipe(), Recipe(lossless=True)]


def compressed(
    folder: Path, weights: Weights, recipe: Recipe, *, base: Content | None = None, preprocessing: Preprocessing = SMALL
) -> Content:
    path = folder / "network.safetensors"
    path.write_bytes(write_safetensors(weights, Description("squeezenet1_1", preprocessing)))
    return compress_checkpoint(path, recipe, base=base)


def with_classes(weights: Weights, count: int) -> Weights:
    """The head's first rows, and rows like them for classes that it did not have."""
    rows = np.arange(count) % len(weights[f"{HEAD}.bias"])
    return weights | {key: np.ascontiguousarray(weights[key][rows]) for key in (f"{HEAD}.weight", f"{HEAD}.bias")}


def delta_bytes(base: Content, new: Content) -> int:
    """What the change takes, after a check that a vehicle would get the very content."""
    data = make_delta(base, new, Codec.MODEL).data
    assert apply_delta(base, data).data == new.data
    return len(data)


@pytest.mark.parametrize("recipe", RECIPES, ids=["default", "lossless"])
@pytest.mark.parametrize("classes", [3, 7])
def test_a_head_that_shrinks_or_grows_costs_no_more_than_the_head(tmp_path: Path, recipe: Recipe, classes: int) -> None:
    weights = random_weights()
    base = compressed(tmp_path, weights, recipe)
    new = compressed(tmp_path, with_classes(weights, classes), recipe, base=base)
    assert new.weights()[f"{HEAD}.weight"].shape[0] == classes
    whole_head = 4 * classes * 513
    assert delta_bytes(base, new) < 3000 + whole_head


def test_rows_that_a_grown_head_had_before_are_not_sent_again(tmp_path: Path) -> None:
    weights = random_weights()
    base = compressed(tmp_path, weights, Recipe(lossless=True))
    more = compressed(tmp_path, with_classes(weights, 7), Recipe(lossless=True), base=base)
    fewer = compressed(tmp_path, with_classes(weights, 3), Recipe(lossless=True), base=base)
    assert delta_bytes(base, more) - delta_bytes(base, fewer) > 1.5 * 2 * 513
    assert delta_bytes(base, more) - delta_bytes(base, fewer) < 4.1 * 2 * 513


def test_another_input_size_costs_the_manifest_only(tmp_path: Path) -> None:
    weights = random_weights()
    base = compressed(tmp_path, weights, Recipe())
    new = compressed(tmp_path, weights, Recipe(), base=base, preprocessing=replace(SMALL, resize=(64, 64)))
    assert new.manifest.inputs[0].shape[2:] == (64, 64)
    assert delta_bytes(base, new) < 2000


@pytest.mark.parametrize("name", ["features.3.squeeze.weight", "features.12.expand3x3.bias"])
def test_a_tensor_that_is_new_costs_itself(tmp_path: Path, name: str) -> None:
    new = compressed(tmp_path, random_weights(), Recipe())
    base = Content(new.manifest, new.graph, tuple(t for t in new.tensors if t.name != name))
    alone = Content(new.manifest, new.graph, tuple(t for t in new.tensors if t.name == name))
    assert delta_bytes(base, new) < len(encode_full(alone))
    assert delta_bytes(new, base) < 400


def test_another_network_altogether_costs_no_more_than_its_full_artifact(tmp_path: Path) -> None:
    base = compressed(tmp_path, random_weights(), Recipe())
    new = compress_checkpoint(foreign_onnx(tmp_path / "foreign.onnx"), Recipe(), base=base)
    assert delta_bytes(base, new) <= len(encode_full(new)) + 33 + len(new.tensors)
    assert delta_bytes(new, base) <= len(encode_full(base)) + 33 + len(base.tensors)
