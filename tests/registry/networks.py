"""Small networks for tests: real architectures with made-up weights, and an ONNX graph that is none of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from model_registry.architectures import architecture
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.checkpoints import Description, Weights
from model_registry.models.safetensors_file import write_safetensors

SMALL = Preprocessing((48, 48), None, "RGB", (128.0, 128.0, 128.0), (0.02, 0.02, 0.02))
CLASSES = 5


def random_weights(name: str = "squeezenet1_1", *, seed: int = 0) -> Weights:
    """Dense weights whose outputs neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    shapes = architecture(name, CLASSES).shapes
    return {
        key: (rng.laplace(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if len(shape) > 1
        else rng.normal(scale=0.1, size=shape).astype(np.float32)
        for key, shape in shapes.items()
    }


def changed(weights: Weights, keys: str = "", *, by: float, seed: int = 1) -> Weights:
    """The weights whose name contains ``keys``, moved by ``by`` times their spread."""
    rng = np.random.default_rng(seed)
    return {
        key: (value + by * value.std() * rng.normal(size=value.shape)).astype(np.float32) if keys in key else value
        for key, value in weights.items()
    }


def save(path: Path, weights: Weights, name: str | None = "squeezenet1_1") -> Path:
    path.write_bytes(write_safetensors(weights, Description(name, SMALL)))
    return path


def foreign_onnx(path: Path, *, batch: int | str = "N", classes: int = 3) -> Path:
    """Depthwise convolution, batch normalisation, resize, pooling and a linear layer, with names that need renaming."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    initializers = [
        weight("/conv/weight:0", 6, 1, 3, 3),
        weight("/conv/bias:0", 6),
        *(weight(f"bn::{part}", 6) for part in ("scale", "shift", "mean")),
        numpy_helper.from_array(rng.uniform(0.5, 1.5, 6).astype(np.float32), "bn::variance"),
        numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"),
        numpy_helper.from_array(np.array([1, 6], np.int64), "shape"),
        weight("head", 6, classes),
        weight("head_bias", classes),
    ]
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["two"], axis=1),
        helper.make_node("Conv", ["two", "/conv/weight:0", "/conv/bias:0"], ["c"], group=6, pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", *(f"bn::{p}" for p in ("scale", "shift", "mean", "variance"))], ["n"]),
        helper.make_node("Resize", ["n", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "head_bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, classes])],
        initializers,
        doc_string="made for a test",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7, producer_name="somebody")
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def graph_without_weights(
    nodes: Sequence[NodeProto], weights: Weights, shape: tuple[int, ...], constants: Sequence[TensorProto] = ()
) -> bytes:
    """A graph from "x" of ``shape`` to "y" whose weights are declared, not held."""
    declared = list(constants)
    for name, value in weights.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape, data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="weights")
        declared.append(tensor)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [x], [y], declared)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return bytes(model.SerializeToString())
