"""Answers that rounding turned, turned back by the last biases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression import pipeline
from model_registry.compression.pipeline import read_network
from model_registry.compression.quantization import Setting
from model_registry.compression.recipe import Recipe
from model_registry.compression.settling import raised, settle
from model_registry.contract.content import Content
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.session import Session, self_test
from model_registry.models.evaluation import content_engine
from tests.registry.networks import SMALL, foreign_onnx

Floats = npt.NDArray[np.float64]
ALL = np.ones(3, np.bool_)


def three_pictures(*behind: float) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Pictures of the classes 0, 1, 2 whose class is so far behind class 3."""
    logits = np.zeros((3, 4))
    logits[np.arange(3), np.arange(3)] = 5.0
    logits[:, 3] = 5.0 + np.array(behind)
    return logits, np.arange(3)


def test_classes_that_lack_little_are_raised_by_as_few_steps_as_it_takes() -> None:
    logits, labels = three_pictures(0.05, -1.0, 0.25)
    assert list(raised(logits, labels, ALL, step=0.1, limit=10, goal=3)) == [1, 0, 3, 0]


def test_no_more_is_done_than_is_asked_for_and_what_lacks_least_comes_first() -> None:
    logits, labels = three_pictures(0.25, 0.05, 0.45)
    assert list(raised(logits, labels, ALL, step=0.1, limit=10, goal=2)) == [3, 1, 0, 0]


def test_no_class_goes_beyond_the_limit_and_none_is_raised_for_what_was_wrong_before() -> None:
    logits, labels = three_pictures(0.05, 0.05, 0.45)
    wanted = np.array([True, False, True])
    assert list(raised(logits, labels, wanted, step=0.1, limit=4, goal=3)) == [1, 0, 0, 0]


def test_a_class_that_would_take_another_picture_is_left() -> None:
    logits, labels = three_pictures(0.05, -1.0, -1.0)
    # The second picture is nearly of class 0.
    logits[1, 0] = logits[1, 1] - 0.08
    assert not raised(logits, labels, ALL, step=0.1, limit=10, goal=3).any()


SIXTEEN = replace(SMALL, resize=(16, 16))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> pipeline.SourceNetwork:
    path = foreign_onnx(tmp_path_factory.mktemp("foreign") / "network.onnx", classes=30)
    return read_network(path, Recipe(preprocessing=SIXTEEN))


class Pictures:
    """Noise, and what a network says of it."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        rng = np.random.default_rng(0)
        self._images = [preprocessing.apply(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(60)]

    def __call__(self, content: Content) -> npt.NDArray[np.float32]:
        engine = content_engine(content)
        return np.stack([engine(image) for image in self._images])


def test_what_is_settled_is_right_more_often_and_as_well_proven(network: pipeline.SourceNetwork) -> None:
    answer, bias = Pictures(SIXTEEN), list(network.weights)[-1]
    exact = answer(network.exact())
    labels = exact.argmax(axis=1)
    coarse = pipeline.compress(network, Setting(step=0.6, keep_codebooks=False))
    lost = int((answer(coarse).argmax(axis=1) != labels).sum())
    settled = settle(coarse, bias, answer, exact=exact, labels=labels, allowed=0)
    left = int((answer(settled).argmax(axis=1) != labels).sum())
    assert left < lost
    self_test(Session(settled))
    assert [new.name for new, old in zip(settled.tensors, coarse.tensors, strict=True) if not new.same_as(old)] == [bias]
    # What may be lost is not looked for.
    assert settle(coarse, bias, answer, exact=exact, labels=labels, allowed=lost).sha256 == coarse.sha256


def test_a_bias_that_is_on_no_grid_stays(network: pipeline.SourceNetwork) -> None:
    answer, bias = Pictures(SIXTEEN), list(network.weights)[-1]
    exact = network.exact()
    labels = (answer(exact).argmax(axis=1) + 1) % 30
    assert settle(exact, bias, answer, exact=np.roll(answer(exact), 1, axis=1), labels=labels, allowed=0) is exact
