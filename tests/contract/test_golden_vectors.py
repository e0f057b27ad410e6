"""Golden vectors: the same inputs everywhere, and a check that wrong outputs do not pass."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from model_registry.contract.errors import SelfTestFailed
from model_registry.contract.golden import check, golden_inputs, summarise
from model_registry.contract.manifest import InputSpec
from model_registry.contract.preprocessing import Preprocessing
from tests.contract.contents import manifest

OUTPUT = np.random.default_rng(3).standard_normal((1, 43)).astype(np.float32)


def test_a_seed_gives_the_same_input_for_ever() -> None:
    image = golden_inputs(manifest(), 7)["image"]
    assert image.shape == (1, 3, 8, 8)
    assert image.dtype == np.float32
    assert hashlib.sha256(image.tobytes()).hexdigest() == GOLDEN_IMAGE


GOLDEN_IMAGE = "4e1b0cfc456101078488188314fc82b30648a5be1cddd0aaadf6be04ff7824b0"


def test_another_seed_gives_another_input() -> None:
    assert not np.array_equal(golden_inputs(manifest(), 1)["image"], golden_inputs(manifest(), 2)["image"])


def test_a_picture_network_gets_a_preprocessed_mosaic() -> None:
    preprocessing = Preprocessing((20, 20), (16, 16), "BGR", (10.0, 20.0, 30.0), (1.0, 1.0, 1.0))
    made = manifest(preprocessing=preprocessing, inputs=(InputSpec("image", "float32", (1, 3, 16, 16)),))
    image = golden_inputs(made, 1)["image"][0]
    assert np.array_equal(image[:, 0, 0], image[:, 1, 1])
    assert image[0].min() >= -10
    assert image[0].max() <= 245


@pytest.mark.parametrize("dtype", ["float16", "uint8", "int32", "int64"])
def test_every_input_type_is_served_with_its_own_values(dtype: str) -> None:
    inputs = (InputSpec("a", dtype, (2, 40)), InputSpec("b", dtype, (2, 40)))
    made = golden_inputs(manifest(inputs=inputs), 1)
    assert {values.dtype.name for values in made.values()} == {dtype}
    assert not np.array_equal(made["a"], made["b"])


def test_the_same_outputs_pass_and_rounding_passes() -> None:
    vector = summarise(1, [OUTPUT])
    check(vector, [OUTPUT])
    check(vector, [OUTPUT * np.float32(1 + 1e-4)])


def test_wrong_outputs_fail() -> None:
    vector = summarise(1, [OUTPUT])
    poisoned = OUTPUT.copy()
    # An output that the vector does not list.
    poisoned[0, int(np.argmin(np.abs(OUTPUT)))] = np.nan
    for wrong in (OUTPUT * 1.1, OUTPUT + 0.1, OUTPUT[:, ::-1], OUTPUT[:, :3], poisoned, np.zeros((0,), np.float32)):
        with pytest.raises(SelfTestFailed):
            check(vector, [wrong])


def test_an_output_more_or_less_fails() -> None:
    vector = summarise(1, [OUTPUT])
    with pytest.raises(SelfTestFailed):
        check(vector, [])
    with pytest.raises(SelfTestFailed):
        check(vector, [OUTPUT, np.full((1, 50), 5.0)])


@pytest.mark.parametrize("output", [np.array([np.nan]), np.array([np.inf]), np.zeros(0)])
def test_a_model_without_finite_outputs_gets_no_vector(output: np.ndarray) -> None:
    with pytest.raises(SelfTestFailed):
        summarise(1, [output])


def test_a_constant_output_still_has_a_tolerance() -> None:
    vector = summarise(1, [np.zeros((1, 4))])
    assert vector.tolerance > 0
    check(vector, [np.zeros((1, 4))])
