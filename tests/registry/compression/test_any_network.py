"""Calibration of networks that are no classifiers, or end otherwise than in logits: their answers survive as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from model_registry.compression import accuracy, search
from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable
from model_registry.contract.manifest import InputSpec
from model_registry.contract.session import Session
from model_registry.models.evaluation import Sample, answers_to
from tests.registry.compression.conftest import quiet
from tests.registry.networks import SMALL

Make = Callable[[Sequence[NodeProto], Sequence[str], dict[str, tuple[int, ...]]], SourceNetwork]
SIDE = 16


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A network that ends in these nodes and outputs; they take "pooled" (1, 24), and have weights of these shapes."""

    def made(nodes: Sequence[NodeProto], outputs: Sequence[str], shapes: dict[str, tuple[int, ...]]) -> SourceNetwork:
        rng = np.random.default_rng(5)
        shapes = {"kernel": (24, 3, 3, 3), **shapes}
        weights = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name) for name, shape in shapes.items()]
        body = [
            helper.make_node("Conv", ["x", "kernel"], ["seen"]),
            helper.make_node("Relu", ["seen"], ["lit"]),
            helper.make_node("GlobalAveragePool", ["lit"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["pooled"]),
        ]
        graph = helper.make_graph(
            [*body, *nodes],
            "any",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
        path = tmp_path / "network.onnx"
        path.write_bytes(model.SerializeToString())
        return read_network(path, Recipe(preprocessing=replace(SMALL, resize=(SIDE, SIDE))))

    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    for index, picture in enumerate(pictures(seed=0)):
        Image.fromarray(picture).save(place / f"{index:02}.png")
    return place


def pictures(seed: int) -> list[npt.NDArray[np.uint8]]:
    """Of some colour each, with noise."""
    rng = np.random.default_rng(seed)
    colours, noise = rng.integers(30, 226, (24, 1, 1, 3)), rng.integers(-30, 30, (24, SIDE, SIDE, 3))
    return list((colours + noise).astype(np.uint8))


def dense(output: str, outputs: int, given: str = "pooled", inputs: int = 24) -> tuple[NodeProto, dict[str, tuple[int, ...]]]:
    weight, bias = f"{output}_weight", f"{output}_bias"
    return helper.make_node("Gemm", [given, weight, bias], [output]), {weight: (inputs, outputs), bias: (outputs,)}


def errors(network: SourceNetwork, content: Content) -> list[float]:
    """Of every output, on pictures that nobody saw: the energy of the error over that of how the answers differ."""
    assert network.manifest.preprocessing is not None
    unseen = [network.manifest.preprocessing.apply(picture) for picture in pictures(seed=9)]
    requests = [{"x": picture} for picture in unseen]
    wanted, own = (answers_to(Session(each), requests) for each in (network.exact(), content))
    return [_missed(expected, found) for expected, found in zip(wanted, own, strict=True)]


def _missed(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> float:
    return float(np.square(found - expected).mean() / np.square(expected - expected.mean(axis=0)).mean())


def test_a_single_number_is_an_answer(make: Make, folder: Path) -> None:
    node, shapes = dense("y", 1)
    network = make([node], ["y"], shapes)
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert errors(network, found.content)[0] < 0.1


def test_probabilities_count_as_the_logits_that_they_come_from(make: Make, folder: Path) -> None:
    node, shapes = dense("logits", 300)
    network = make([node, helper.make_node("Softmax", ["logits"], ["y"])], ["y"], shapes)
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert errors(network, found.content)[0] < 0.1
    assert any(point.damage > search.MAX_DIVERGENCE for point in found.points)


def test_answers_to_several_questions_are_numbers(make: Make, folder: Path) -> None:
    node, shapes = dense("logits", 6)
    network = make([node, helper.make_node("Sigmoid", ["logits"], ["y"])], ["y"], shapes)
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert errors(network, found.content)[0] < 0.1


def test_every_head_is_heard(make: Make, folder: Path) -> None:
    (classes, of_classes), (boxes, of_boxes) = dense("classes", 10), dense("boxes", 4)
    network = make([classes, boxes], ["classes", "boxes"], of_classes | of_boxes)
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert max(errors(network, found.content)) < 0.1


def test_an_update_of_one_head_arrives(make: Make, folder: Path) -> None:
    (classes, of_classes), (boxes, of_boxes) = dense("classes", 10), dense("boxes", 4)
    network = make([classes, boxes], ["classes", "boxes"], of_classes | of_boxes)
    base = search.calibrate(network, folder, base=None, progress=quiet).content
    turned = network.weights | {"boxes_weight": network.weights["boxes_weight"][::-1].copy()}
    found = search.calibrate(replace(network, weights=turned), folder, base=base, progress=quiet)
    assert errors(replace(network, weights=turned), found.content)[1] < 0.1


def test_a_layer_that_no_picture_reaches_is_kept_as_without_pictures(make: Make, folder: Path) -> None:
    main, of_main = dense("y", 10)
    dark = [
        helper.make_node("Abs", ["pooled"], ["up"]),
        helper.make_node("Neg", ["up"], ["down"]),
        helper.make_node("Relu", ["down"], ["dark"]),
    ]
    side, of_side = dense("side", 10, "dark")
    network = make([main, *dark, side, helper.make_node("Add", ["y", "side"], ["z"])], ["z"], of_main | of_side)
    found = search.calibrate(network, folder, base=None, progress=quiet)
    kept = found.content.weights()["side_weight"]
    assert _missed(network.weights["side_weight"], kept) < 0.01


def test_one_number_for_all_outputs_is_no_bias(make: Make, folder: Path) -> None:
    node, shapes = dense("y", 10)
    network = make([node], ["y"], shapes | {"y_bias": (1,)})
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert errors(network, found.content)[0] < 0.1


def test_a_network_without_a_layer_to_calibrate_is_refused(make: Make, folder: Path) -> None:
    # Two nodes that use one weight are no layer of their own.
    twice = make(
        [
            helper.make_node("Conv", ["x", "kernel"], ["again"]),
            helper.make_node("GlobalAveragePool", ["again"], ["means"]),
            helper.make_node("Flatten", ["means"], ["y"]),
        ],
        ["y"],
        {},
    )
    with pytest.raises(ModelUnusable, match="no layer that can be calibrated"):
        search.calibrate(twice, folder, base=None, progress=quiet)
    with pytest.raises(ModelUnusable, match="no layer that can be calibrated"):
        accuracy.within_drop(twice, [Sample(path, 0) for path in folder.iterdir()], 1.0, base=None, progress=quiet)


def test_a_network_that_takes_more_than_a_picture_is_refused(make: Make, folder: Path) -> None:
    node, shapes = dense("y", 10)
    network = make([node], ["y"], shapes)
    manifest = replace(network.manifest, inputs=(*network.manifest.inputs, InputSpec("speed", "float32", (1,))))
    with pytest.raises(ModelUnusable, match="does not take one picture"):
        search.calibrate(replace(network, manifest=manifest), folder, base=None, progress=quiet)


def test_nothing_may_be_lost_of_an_update_that_brings_nothing(make: Make, folder: Path) -> None:
    node, shapes = dense("y", 10)
    network = make([node], ["y"], shapes)
    base = search.calibrate(network, folder, base=None, progress=quiet).content
    found = search.calibrate(network, folder, base=base, progress=quiet, max_lost=0.0)
    assert max(errors(network, found.content)) <= max(errors(network, base))
