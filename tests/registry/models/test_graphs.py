"""Graphs without weights: ours agree with torch, foreign ones with themselves, and nothing is read from beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto

from model_registry.architectures import ARCHITECTURES, architecture
from model_registry.contract.content import Content
from model_registry.contract.errors import ArtifactRefused, MalformedArtifact, ModelUnusable, UnsupportedArtifact
from model_registry.contract.manifest import Manifest
from model_registry.contract.session import Session
from model_registry.contract.tensors import float32_tensor
from model_registry.models.graphs import bias_names, build_graph, fill_graph, interface, output_classes, strip_model
from model_registry.models.network import Network
from tests.registry.networks import CLASSES, foreign_onnx, random_weights

SIZE = (64, 64)


def content(graph: bytes, weights: dict[str, np.ndarray]) -> Content:
    inputs, outputs = interface(graph)
    tensors = tuple(float32_tensor(name, value) for name, value in weights.items())
    return Content(Manifest("onnx", 0, inputs, outputs), graph, tensors)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "alexnet"])
def test_onnx_runtime_answers_like_torch(name: str) -> None:
    described, weights = architecture(name, CLASSES), random_weights(name)
    network = Network(described).eval()
    network.load_weights(weights)
    picture = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(picture)).numpy()
    found = Session(content(build_graph(described, SIZE), weights)).run({"input": picture})[0]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_alexnet_answers_like_torch() -> None:
    described = architecture("alexnet", CLASSES)
    network = Network(described).eval()
    picture = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(picture)).numpy()
    found = Session(content(build_graph(described, (224, 224)), network.weights())).run({"input": picture})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_module_has_the_architectures_keys_in_order() -> None:
    for name in ARCHITECTURES:
        if name != "alexnet":
            described = architecture(name, CLASSES)
            assert {k: tuple(v.shape) for k, v in Network(described).state_dict().items()} == described.shapes
            assert list(Network(described).state_dict()) == list(described.shapes)


def test_a_graph_is_small_and_always_the_same() -> None:
    graph = build_graph(architecture("squeezenet1_0"), (227, 227))
    assert graph == build_graph(architecture("squeezenet1_0"), (227, 227))
    assert len(graph) < 10_000
    assert output_classes(graph) == 1000
    assert len(bias_names(graph)) == 26


def test_a_filled_graph_is_a_model_on_its_own() -> None:
    described, weights = architecture("squeezenet1_1", CLASSES), random_weights()
    graph = build_graph(described, SIZE)
    filled = fill_graph(graph, weights)
    onnx.checker.check_model(onnx.load_from_string(filled))
    picture = np.ones((1, 3, *SIZE), np.float32)
    alone = ort.InferenceSession(filled, providers=["CPUExecutionProvider"]).run(None, {"input": picture})[0]
    np.testing.assert_array_equal(alone, Session(content(graph, weights)).run({"input": picture})[0])


def test_filling_without_a_weight_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"features\.0\.weight"):
        fill_graph(build_graph(architecture("squeezenet1_1", CLASSES), SIZE), {})


def test_a_foreign_network_answers_the_same_without_its_weights(tmp_path: Path) -> None:
    original = foreign_onnx(tmp_path / "foreign.onnx").read_bytes()
    stripped = strip_model(original)
    assert set(stripped.weights) == {
        "_conv_weight_0", "_conv_bias_0", "bn__scale", "bn__shift", "bn__mean", "bn__variance", "head", "head_bias"
    }  # fmt: skip
    assert stripped.inputs[0].shape == (1, 3, 16, 16)
    assert b"somebody" not in stripped.graph
    assert b"made for a test" not in stripped.graph
    picture = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    expected = ort.InferenceSession(original, providers=["CPUExecutionProvider"]).run(None, {"x": picture})[0]
    found = Session(content(stripped.graph, stripped.weights)).run({"x": picture})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_only_sums_count_as_biases(tmp_path: Path) -> None:
    stripped = strip_model(foreign_onnx(tmp_path / "foreign.onnx").read_bytes())
    assert bias_names(stripped.graph) == {"_conv_bias_0", "head_bias"}


def test_renaming_never_merges_two_weights(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "foreign.onnx"))
    for node in model.graph.node:
        node.input[:] = [{"head": "a/b", "head_bias": "a:b"}.get(name, name) for name in node.input]
    for tensor in model.graph.initializer:
        tensor.name = {"head": "a/b", "head_bias": "a:b"}.get(tensor.name, tensor.name)
    stripped = strip_model(model.SerializeToString())
    assert {"a_b", "a_b.1"} <= set(stripped.weights)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "foreign.onnx"))
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(UnsupportedArtifact, match="another file"):
        strip_model(model.SerializeToString())


def test_external_data_inside_a_node_is_refused(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "foreign.onnx"))
    node = model.graph.node.add(op_type="Constant", output=["k"])
    attribute = node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
    attribute.t.CopyFrom(TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL))
    with pytest.raises(UnsupportedArtifact, match="another file"):
        strip_model(model.SerializeToString())


def test_an_open_side_needs_a_size(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "foreign.onnx"))
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    with pytest.raises(UnsupportedArtifact, match="--preprocess"):
        strip_model(model.SerializeToString())
    assert strip_model(model.SerializeToString(), (16, 16)).inputs[0].shape == (1, 3, 16, 16)


@pytest.mark.parametrize("data", [b"", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 100, b"hello, world\n" * 20])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedArtifact, match="not an ONNX model"):
        strip_model(data)


def test_a_weight_shorter_than_its_shape_is_refused(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "foreign.onnx"))
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(MalformedArtifact, match="/conv/weight:0"):
        strip_model(model.SerializeToString())


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    data = foreign_onnx(tmp_path / "foreign.onnx").read_bytes()
    assert b"bn::scale" in data
    with pytest.raises(MalformedArtifact, match="UTF-8"):
        strip_model(data.replace(b"bn::scale", b"bn::\xffcale"))


def test_damaged_models_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    data = foreign_onnx(tmp_path / "foreign.onnx").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            strip_model(bytes(damaged))
        except ArtifactRefused:
            refused += 1
    assert refused > 30
