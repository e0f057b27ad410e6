"""The networks known by name: what the papers and torchvision say about them holds."""

from __future__ import annotations

import pytest

from model_registry.architectures import (
    ARCHITECTURES,
    Convolution,
    MaxPool,
    SqueezeNet,
    architecture,
    matching,
    recognise,
)
from model_registry.contract.errors import UnsupportedArtifact


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("squeezenet1_0", 1_248_424),
        ("squeezenet1_1", 1_235_496),
        ("squeezenet1_0_simple_bypass", 1_248_424),
        # A 1x1 convolution around fire modules 2, 4, 6 and 8: 96->128, 128->256, 256->384, 384->512 channels.
        ("squeezenet1_0_complex_bypass", 1_248_424 + 97 * 128 + 129 * 256 + 257 * 384 + 385 * 512),
        ("alexnet", 61_100_840),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert architecture(name).parameters == parameters


def test_keys_are_those_of_torchvision() -> None:
    shapes = architecture("squeezenet1_0").shapes
    assert shapes["features.0.weight"] == (96, 3, 7, 7)
    assert shapes["features.3.squeeze.weight"] == (16, 96, 1, 1)
    assert shapes["features.3.expand1x1.bias"] == (64,)
    assert shapes["features.12.expand3x3.weight"] == (256, 64, 3, 3)
    assert shapes["classifier.1.weight"] == (1000, 512, 1, 1)
    assert {key.split(".")[1] for key in architecture("squeezenet1_1").shapes if key.startswith("features")} == {
        "0", "3", "4", "6", "7", "9", "10", "11", "12"
    }  # fmt: skip


def test_pools_stand_where_the_versions_put_them() -> None:
    def before_pools(name: str) -> list[int]:
        layers = architecture(name).layers
        counts, convolutions = [], 0
        for layer in layers:
            convolutions += isinstance(layer.operation, Convolution)
            if isinstance(layer.operation, MaxPool):
                counts.append(convolutions)
        return counts

    # One convolution first, then three in each fire module.
    assert before_pools("squeezenet1_0") == [1, 10, 22]
    assert before_pools("squeezenet1_1") == [1, 7, 13]


def test_metaparameters_follow_the_papers_formula() -> None:
    wide = SqueezeNet(base_e=64, incr_e=32, freq=4, pct3x3=0.25, squeeze_ratio=0.5, fires=4)
    shapes = wide.build("wide", 10).shapes
    assert shapes["features.3.squeeze.weight"] == (32, 96, 1, 1)
    assert shapes["features.3.expand1x1.weight"] == (48, 32, 1, 1)
    assert shapes["features.3.expand3x3.weight"] == (16, 32, 3, 3)


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1", "squeezenet1_1_complex_bypass", "alexnet"])
def test_weights_are_recognised_with_any_number_of_classes(name: str) -> None:
    found = recognise(architecture(name, 7).shapes)
    assert found is not None
    assert (found.name, found.classes) == (name, 7)


def test_other_weights_are_not_recognised() -> None:
    shapes = architecture("squeezenet1_0", 7).shapes
    assert recognise(shapes | {"extra": (1,)}) is None
    assert recognise({"classifier.1.weight": (7, 512, 1, 1)}) is None
    assert matching("squeezenet1_1", shapes) is None


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedArtifact, match="squeezenet1_0"):
        architecture("resnet50")
    assert len(ARCHITECTURES) >= 5
