"""What moves all weights of a row at once takes a number a row, and leaves zeros and levels alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression.calibration import Calibrated
from model_registry.compression.revision import revise_layer
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.codecs.tensor_coding import encode_tensor
from model_registry.contract.entropy import COST_UNIT
from model_registry.contract.tensors import EncodedTensor
from model_registry.models.linear_layers import LinearLayer
from tests.registry.compression.test_compensation import correlated, moments
from tests.registry.compression.test_revision import INPUTS, LAYER, OUTPUTS, biases, codebook, grid

Floats = npt.NDArray[np.float32]
BASES = pytest.mark.parametrize("base", [codebook(), grid()], ids=["codebook", "grid"])
PRICE = 1e-5


def revise(weight: Floats, base: EncodedTensor, layer: LinearLayer = LAYER, price: float = PRICE) -> EncodedTensor:
    calibrated = Calibrated(layer, moments(correlated(INPUTS, groups=layer.groups)), 1.0)
    bias = biases().dequantize() if layer.bias else None
    return revise_layer(calibrated, weight, bias, base=base, base_bias=biases() if layer.bias else None, price=price)[0]


def each_row(size: float, rows: int = OUTPUTS) -> Floats:
    """A number for each row, both signs, far below a step."""
    return (size * np.random.default_rng(7).standard_normal((rows, 1))).astype(np.float32)


def moved(base: EncodedTensor, shift: Floats | float = 0.0, stretch: Floats | float = 0.0) -> Floats:
    weights = base.dequantize()
    return np.asarray(weights + (weights != 0) * shift + np.sign(weights) * stretch, np.float32)


def no_level_changes(base: EncodedTensor, new: EncodedTensor) -> bool:
    """Maybe on a finer grid, which costs nothing."""
    return np.allclose(new.without_offsets(), base.without_offsets())


def bits(base: EncodedTensor, new: EncodedTensor) -> float:
    sink = Sink()
    encode_tensor(base, new, sink)
    return sink.cost / COST_UNIT


@BASES
@pytest.mark.parametrize("size", [0.003, 0.0001])
def test_rows_that_move_are_shifted_and_no_level_changes(base: EncodedTensor, size: float) -> None:
    weight = moved(base, shift=each_row(size))
    tensor = revise(weight, base, price=PRICE * (size / 0.003) ** 2)
    assert no_level_changes(base, tensor)
    assert len(tensor.offsets) == 1
    assert np.abs(tensor.dequantize() - weight).max() < size / 3
    assert bits(base, tensor) < 10 * OUTPUTS


@BASES
def test_rows_that_grow_are_stretched(base: EncodedTensor) -> None:
    weight = moved(base, shift=each_row(0.002), stretch=each_row(0.003))
    tensor = revise(weight, base, price=PRICE / 10)
    assert no_level_changes(base, tensor)
    assert len(tensor.offsets) == 2
    assert np.abs(tensor.dequantize() - weight).mean() < 0.2 * np.abs(base.dequantize() - weight).mean()


@BASES
def test_what_is_zero_stays_zero(base: EncodedTensor) -> None:
    tensor = revise(moved(base, shift=each_row(0.003)), base)
    assert tensor.offsets.all(axis=0).any()
    assert not tensor.dequantize()[base.dequantize() == 0].any()


def test_offsets_go_on_from_those_of_the_base() -> None:
    base = replace(codebook(), offsets=np.round(each_row(0.01).T * 2**14) / np.float32(2**14))
    same = revise(base.dequantize(), base)
    assert same.same_as(base)
    weight = moved(codebook(), shift=base.offsets.T + each_row(0.003))
    later = revise(weight, base)
    assert no_level_changes(base, later)
    assert np.abs(later.dequantize() - weight).max() < 0.001


def test_groups_have_offsets_for_each_of_their_rows() -> None:
    base = codebook()
    weight = moved(base, shift=each_row(0.003))
    tensor = revise(weight, base, LinearLayer("w", "b", "x", groups=3))
    assert no_level_changes(base, tensor)
    assert np.abs(tensor.dequantize() - weight).max() < 0.001


def test_weights_that_lie_the_other_way_have_none() -> None:
    """Axis 0 of a transposed weight are its inputs."""
    straight = codebook()
    base = replace(straight, values=np.ascontiguousarray(straight.values.T))
    tensor = revise(moved(straight, shift=each_row(0.003)).T, base, LinearLayer("w", "b", "x", transposed=True))
    assert tensor.shape == base.shape
    assert not tensor.offsets.size


def test_rows_without_weights_need_no_offsets() -> None:
    book = codebook()
    zero = np.flatnonzero(book.scale == 0)[0]
    base = replace(book, values=np.where(np.arange(OUTPUTS)[:, np.newaxis] < 5, zero, book.values).astype(np.uint8))
    tensor = revise(moved(base, shift=each_row(0.003)), base)
    assert not tensor.offsets[:, :5].any()
    assert tensor.offsets[:, 5:].any()


def test_an_update_that_is_not_worth_a_number_a_row_has_none() -> None:
    base = codebook()
    assert not revise(moved(base, shift=each_row(0.001)), base, price=10.0).offsets.size


def test_a_layer_that_sees_nothing_and_tells_nothing_is_no_obstacle() -> None:
    base = codebook()
    nothing = np.zeros_like(moments(correlated(INPUTS)))
    nothing[:, -1, -1] = 1
    dead = Calibrated(LAYER, nothing, 0.0)
    before, bias = biases(), biases().dequantize()
    tensor, _ = revise_layer(dead, moved(base, shift=each_row(0.01)), bias, base=base, base_bias=before, price=1.0)
    assert tensor.shape == base.shape
    assert not tensor.offsets.size


@pytest.mark.parametrize("size", [1e-5, 1e6])
def test_weights_of_any_size_have_offsets_that_float16_holds(size: float) -> None:
    base = replace(codebook(), scale=(codebook().scale * size).astype(np.float32))
    weight = np.asarray(base.dequantize() + (base.dequantize() != 0) * size * each_row(0.1), np.float32)
    tensor = revise(weight, base, price=1e-5 * size**2)
    assert np.isfinite(tensor.offsets).all()
    assert np.abs(tensor.dequantize() - weight).mean() <= np.abs(base.dequantize() - weight).mean()
