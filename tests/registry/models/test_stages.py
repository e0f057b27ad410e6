"""A network walked layer by layer: every layer is reached with the input that it has when all runs at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from model_registry.contract.content import Content
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.session import Session
from model_registry.contract.tensors import float32_tensor
from model_registry.models.graphs import Weights
from model_registry.models.linear_layers import LinearLayer, linear_layers, with_inputs_shown
from model_registry.models.stages import Walk
from tests.registry.networks import graph_without_weights

Floats = npt.NDArray[np.float32]
SHAPE = (1, 2, 6, 6)


def random(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


WEIGHTS: Weights = {
    "first": random(3, 2, 3, 3),
    "first.bias": random(3),
    "left": random(4, 3, 1, 1),
    "right": random(4, 3, 3, 3),
    "right.bias": random(4),
    "last": random(5, 8),
}
REQUESTS = [{"x": np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)} for seed in range(3)]


def branching() -> bytes:
    """first, left and right beside each other, a branch that looks at an outer value, optional inputs left out, and last."""
    keep = helper.make_graph(
        [helper.make_node("Abs", ["together"], ["kept"])],
        "keep",
        [],
        [helper.make_tensor_value_info("kept", TensorProto.FLOAT, None)],
    )
    drop = helper.make_graph(
        [helper.make_node("Neg", ["together"], ["dropped"])],
        "drop",
        [],
        [helper.make_tensor_value_info("dropped", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Conv", ["x", "first", "first.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["left in"]),
        helper.make_node("Dropout", ["left in"], ["b", ""]),
        helper.make_node("Conv", ["b", "left"], ["c"]),
        helper.make_node("Conv", ["b", "right", "right.bias"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["c", "d"], ["together"], axis=1),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=keep, else_branch=drop),
        helper.make_node("GlobalAveragePool", ["chosen"], ["mean"]),
        helper.make_node("Clip", ["mean", "", "at most"], ["clipped"]),
        helper.make_node("Flatten", ["clipped"], ["flat"]),
        helper.make_node("Gemm", ["flat", "last"], ["y"], transB=1),
    ]
    constants = [numpy_helper.from_array(np.array(True), "yes"), numpy_helper.from_array(np.array(0.5, np.float32), "at most")]
    return graph_without_weights(nodes, WEIGHTS, SHAPE, constants)


def all_at_once(weights: Weights, layers: list[LinearLayer]) -> list[dict[str, npt.NDArray[Any]]]:
    graph, outputs = with_inputs_shown(branching(), layers)
    manifest = Manifest("onnx", 0, (InputSpec("x", "float32", SHAPE),), outputs)
    session = Session(Content(manifest, graph, tuple(float32_tensor(name, value) for name, value in weights.items())))
    return [request | dict(zip(outputs, session.run(request), strict=True)) for request in REQUESTS]


def test_every_layer_is_reached_with_its_own_input() -> None:
    layers = linear_layers(branching(), WEIGHTS)
    assert [layer.weight for layer in layers] == ["first", "left", "right", "last"]
    walk, expected = Walk(branching(), REQUESTS), all_at_once(WEIGHTS, layers)
    for layer in layers:
        for found, wanted in zip(walk.to(layer, WEIGHTS), expected, strict=True):
            np.testing.assert_allclose(found, wanted[layer.input], rtol=1e-5, atol=1e-5)


def test_weights_count_as_they_are_when_their_layer_is_passed() -> None:
    """So that a layer can be changed after its input was seen."""
    layers = linear_layers(branching(), WEIGHTS)
    walk = Walk(branching(), REQUESTS)
    changed = dict(WEIGHTS)
    for layer in layers[:-1]:
        walk.to(layer, changed)
        changed[layer.weight] = 2 * changed[layer.weight]
    expected = all_at_once(changed, layers)
    for found, wanted in zip(walk.to(layers[-1], changed), expected, strict=True):
        np.testing.assert_allclose(found, wanted[layers[-1].input], rtol=1e-5, atol=1e-5)


def test_layers_may_be_passed_over() -> None:
    *_, last = layers = linear_layers(branching(), WEIGHTS)
    for found, wanted in zip(Walk(branching(), REQUESTS).to(last, WEIGHTS), all_at_once(WEIGHTS, layers), strict=True):
        np.testing.assert_allclose(found, wanted[last.input], rtol=1e-5, atol=1e-5)
