"""Layers rounded one behind the other: each is aimed at what the float network answers to the same pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from onnx import helper

from model_registry.compression.calibration import Calibrated, Calibration, calibrate_layers, products
from model_registry.compression.compensation import round_layer
from model_registry.compression.propagation import Aim, Propagation
from model_registry.compression.quantization import Floats, grid_tensor
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import Content
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.session import Session
from model_registry.contract.tensors import EncodedTensor, float32_tensor
from model_registry.models.linear_layers import LinearLayer
from tests.registry.networks import graph_without_weights

Doubles = npt.NDArray[np.float64]
SHAPE = (1, 6, 8, 8)
PRICE = 2e-4


def random(*shape: int) -> Floats:
    fan_in = max(int(np.prod(shape[1:])), 1)
    return np.asarray(np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(fan_in), np.float32)


WEIGHTS = {
    "first": random(12, 6, 1, 1),
    "first.bias": random(12),
    "second": random(12, 12, 1, 1),
    "second.bias": random(12),
    "third": random(12, 12, 1, 1),
    "head": random(10, 12),
}


def chain() -> Content:
    """Three convolutions, one of them without a bias, and a head without one."""
    nodes = [
        helper.make_node("Conv", ["x", "first", "first.bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second", "second.bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "third"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["y"], transB=1),
    ]
    manifest = Manifest("onnx", 0, (InputSpec("x", "float32", SHAPE),), ("y",))
    tensors = tuple(float32_tensor(name, value) for name, value in WEIGHTS.items())
    return Content(manifest, graph_without_weights(nodes, WEIGHTS, SHAPE), tensors)


def pictures(count: int, seed: int) -> list[dict[str, Floats]]:
    """Channels resemble each other, as those of pictures do."""
    rng = np.random.default_rng(seed)
    mixed = np.einsum("oi,nihw->nohw", np.random.default_rng(9).standard_normal((6, 3)), rng.standard_normal((count, 3, 8, 8)))
    return [{"x": (one + 0.3 * rng.standard_normal(SHAPE[1:]))[np.newaxis].astype(np.float32)} for one in mixed]


def answers(tensors: dict[str, EncodedTensor], seen: list[dict[str, Floats]]) -> Floats:
    content = chain()
    content = replace(content, tensors=tuple(tensors.get(tensor.name, tensor) for tensor in content.tensors))
    session = Session(content)
    return np.stack([session.run(request)[0] for request in seen])


def each_by_itself(calibration: Calibration) -> dict[str, EncodedTensor]:
    """Every layer rounded for the inputs that it had in the float network."""
    tensors = {}
    for calibrated in calibration.layers.values():
        layer = calibrated.layer
        rows = layer.rows(WEIGHTS[layer.weight].astype(np.float64))
        bias = WEIGHTS[layer.bias].astype(np.float64).reshape(rows.shape[:2]) if layer.bias else np.zeros(rows.shape[:2])
        found = round_layer(rows, bias, calibrated, PRICE)
        levels = layer.weight_of(found.levels, WEIGHTS[layer.weight].shape)
        tensors[layer.weight] = grid_tensor(layer.weight, levels, found.step)
        if layer.bias:
            steps = np.rint(found.bias.reshape(-1) / found.bias_step)
            tensors[layer.bias] = grid_tensor(layer.bias, steps, found.bias_step)
    return tensors


def test_layers_that_know_what_reaches_them_answer_more_like_the_float_network() -> None:
    calibration = calibrate_layers(chain(), pictures(60, seed=1))
    in_sequence = Compensated(calibration, PRICE).round(WEIGHTS, {}, frozenset())
    elsewhere = pictures(60, seed=2)
    exact = answers({}, elsewhere)
    errors = [float(np.square(answers(t, elsewhere) - exact).mean()) for t in (in_sequence, each_by_itself(calibration))]
    assert errors[0] < 0.8 * errors[1]


def test_the_same_pictures_give_the_same_levels() -> None:
    calibration = calibrate_layers(chain(), pictures(20, seed=1))
    one, other = (Compensated(calibration, PRICE).round(WEIGHTS, {}, frozenset()) for _ in range(2))
    assert {name: t.values.tobytes() for name, t in one.items()} == {name: t.values.tobytes() for name, t in other.items()}


def test_before_anything_is_rounded_nothing_is_to_be_taken_back() -> None:
    calibration = calibrate_layers(chain(), pictures(20, seed=1))
    propagation = Propagation(calibration, WEIGHTS)
    for calibrated in calibration.layers.values():
        aim = propagation.reach(calibrated)
        np.testing.assert_allclose(aim.drift, 0, atol=1e-6)
        # Nothing is rounded on the way, so what was measured before is measured again.
        np.testing.assert_allclose(aim.calibrated.moments, calibrated.moments, rtol=1e-3, atol=1e-5)


def test_what_can_be_told_from_the_inputs_is_taken_back() -> None:
    """Inputs that arrive at three quarters of their strength are multiplied by weights that are a third larger."""
    rng = np.random.default_rng(0)
    rows, bias = rng.standard_normal((1, 4, 6)), rng.standard_normal((1, 4))
    columns = np.concatenate([rng.standard_normal((1, 6, 500)), np.ones((1, 1, 500))], axis=1)
    arriving = np.concatenate([0.75 * columns[:, :-1], columns[:, -1:]], axis=1)
    calibrated = Calibrated(LinearLayer("w", "b", "x"), products(arriving, arriving), 1.0)
    corrected, owed = Aim(calibrated, products(columns, arriving) - products(arriving, arriving)).corrected(rows, bias)
    np.testing.assert_allclose(corrected, rows / 0.75, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(owed, bias, atol=0.02)


def test_a_layer_without_a_bias_counts_on_none() -> None:
    calibration = calibrate_layers(chain(), pictures(20, seed=1))
    calibrated = calibration.layers["third"]
    rows = calibrated.layer.rows(WEIGHTS["third"].astype(np.float64))
    found = round_layer(rows, np.zeros(rows.shape[:2]), calibrated, PRICE)
    assert np.count_nonzero(found.levels * found.step - rows)
    np.testing.assert_allclose(found.bias, 0, atol=1e-9)
