"""Linear layers of a graph as matrices: rows times columns plus bias is what ONNX Runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import helper

from model_registry.models.linear_layers import linear_layers, with_inputs_shown
from tests.registry.networks import graph_without_weights

Floats = npt.NDArray[np.float32]


def one_node(kind: str, shape: tuple[int, ...], weights: dict[str, Floats], **attributes: Any) -> bytes:
    """A graph with one node whose weights are declared, not held."""
    return graph_without_weights([helper.make_node(kind, ["x", *weights], ["y"], **attributes)], weights, shape)


def answer(graph: bytes, weights: dict[str, Floats], x: Floats) -> Floats:
    options = ort.SessionOptions()
    held = [ort.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
    options.add_external_initializers(list(weights), held)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def random(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


CASES: dict[str, tuple[str, tuple[int, ...], dict[str, Floats], dict[str, Any]]] = {
    "convolution": ("Conv", (1, 6, 9, 8), {"w": random(4, 6, 3, 2), "b": random(4)}, {}),
    "convolution with a geometry": (
        "Conv",
        (1, 6, 13, 12),
        {"w": random(4, 6, 3, 3), "b": random(4)},
        {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2]},
    ),
    "grouped convolution": ("Conv", (1, 6, 7, 7), {"w": random(8, 3, 3, 3), "b": random(8)}, {"group": 2}),
    "depthwise convolution": ("Conv", (1, 6, 7, 7), {"w": random(6, 1, 3, 3)}, {"group": 6, "pads": [1, 1, 1, 1]}),
    "linear layer": ("Gemm", (1, 5), {"w": random(7, 5), "b": random(7)}, {"transB": 1}),
    "linear layer the other way round": ("Gemm", (1, 5), {"w": random(5, 7), "b": random(7)}, {}),
    "product at several positions": ("MatMul", (1, 4, 5), {"w": random(5, 7)}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_times_columns_is_the_layer(case: str) -> None:
    kind, shape, weights, attributes = CASES[case]
    graph, x = one_node(kind, shape, weights, **attributes), random(*shape)
    (layer,) = linear_layers(graph, weights)
    product = layer.rows(weights["w"]) @ layer.columns(x)
    flat = product.reshape(-1, product.shape[-1])
    if layer.bias:
        flat = flat + weights[layer.bias][:, np.newaxis]
    expected = answer(graph, weights, x)
    found = flat if layer.kernel else flat.T
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    assert np.array_equal(layer.weight_of(layer.rows(weights["w"]), weights["w"].shape), weights["w"])


@pytest.mark.parametrize(
    ("kind", "shape", "weights", "attributes"),
    [
        ("Conv", (1, 2, 8, 8), {"w": random(2, 2, 3, 3)}, {"auto_pad": "SAME_UPPER"}),
        ("Gemm", (1, 5), {"w": random(5, 7)}, {"alpha": 0.5}),
        ("ConvTranspose", (1, 2, 8, 8), {"w": random(2, 2, 3, 3)}, {}),
    ],
)
def test_what_is_not_understood_is_left_out(kind: str, shape: tuple[int, ...], weights: Any, attributes: Any) -> None:
    assert linear_layers(one_node(kind, shape, weights, **attributes), weights) == []


def test_a_bias_that_two_layers_share_is_neithers() -> None:
    weights = {"first": random(4, 4), "second": random(4, 4), "shared": random(4)}
    nodes = [
        helper.make_node("Gemm", ["x", "first", "shared"], ["a"], transB=1),
        helper.make_node("Gemm", ["a", "second", "shared"], ["y"], transB=1),
    ]
    layers = linear_layers(graph_without_weights(nodes, weights, (1, 4)), weights)
    assert [(layer.weight, layer.bias) for layer in layers] == [("first", None), ("second", None)]


def test_inputs_of_layers_become_outputs_once() -> None:
    weights = {"w": random(7, 5)}
    graph = one_node("Gemm", (1, 5), weights, transB=1)
    layers = linear_layers(graph, weights)
    shown, outputs = with_inputs_shown(graph, layers)
    # The graph's own input needs no showing.
    assert outputs == ("y",)
    assert linear_layers(shown, weights) == layers
