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


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 0.3, 1.0, 7.7, 1e4, 1e9])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_rounded_values_are_near_the_outputs_and_short(scale: float, offset: float) -> None:
    outputs = (OUTPUT.astype(np.float64) + offset) * scale
    vector = summarise(1, [outputs])
    told = np.array([*vector.values, vector.mean, vector.deviation])
    exact = np.array([*outputs.ravel()[list(vector.indices)], outputs.mean(), outputs.std()])
    assert np.abs(told - exact).max() <= vector.tolerance * 0.2501
    assert 1e-2 * 0.9999 <= vector.tolerance / max(outputs.std(), 1e-2 * np.abs(outputs).max(), 1e-6) <= 2.5e-2
    assert f"{vector.tolerance:.12e}"[:14] in {f"{digit}.000000000000" for digit in (1, 2, 5)}
    assert not any(repr(value).startswith("-0.0") and value == 0 for value in told.tolist())


@pytest.mark.parametrize("outputs", [[1e39, -1e39], [0.0], [1.99], [2, -2, -1e-9], [1e-30], [1e300]])
def test_awkward_outputs_pass_their_own_test(outputs: list[float]) -> None:
    vector = summarise(1, [np.array(outputs)])
    check(vector, [np.array(outputs)])
    check(vector, [np.array(outputs) * (1 + 5e-5)])


def test_outputs_whose_spread_is_no_number_are_refused() -> None:
    with pytest.raises(SelfTestFailed):
        summarise(1, [np.array([1e300, -1e300])])


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
