"""How single tensors become integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model_registry.compression.quantization import (
    Setting,
    as_codebook,
    in_base_order,
    keep_exactly,
    on_base,
    on_grid,
    quantize,
)
from model_registry.contract.tensors import EncodedTensor, Encoding

RNG = np.random.default_rng(0)
DENSE = RNG.normal(size=(40, 30)).astype(np.float32)
SHARED = RNG.choice(np.array([0, 0.5, -0.25, 1.0 / 3], np.float32), size=(40, 30))


def relative_error(tensor: EncodedTensor, values: np.ndarray) -> float:
    return float(np.linalg.norm(tensor.dequantize() - values) / np.linalg.norm(values))


@pytest.mark.parametrize(
    "values",
    [
        SHARED,
        DENSE,
        DENSE.astype(np.float16).astype(np.float32),
        np.array([[-0.0, 0.0], [np.nan, np.inf]] * 8, np.float32),
        np.array([1e-42, -1e-42] * 8, np.float32),
        np.array(2.5, np.float32),
        np.zeros((0, 3), np.float32),
        np.frombuffer(np.array([0x7FC00001, 0xFFC00002] * 4, np.uint32).tobytes(), np.float32),
    ],
)
def test_exact_means_bit_for_bit(values: np.ndarray) -> None:
    assert keep_exactly("w", values).dequantize().tobytes() == values.tobytes()


def test_shared_values_become_a_sorted_codebook() -> None:
    tensor = quantize("w", SHARED, Setting(), bias=False, share=1)
    assert tensor.encoding is Encoding.CODEBOOK
    assert tensor.scale.tolist() == [-0.25, 0, float(np.float16(1 / 3)), 0.5]
    assert relative_error(tensor, SHARED) < 1e-3


def test_entries_too_small_for_half_precision_stay_exact() -> None:
    tiny = SHARED * np.float32(1e-6)
    codebook = as_codebook("w", tiny, rounded=True)
    assert codebook is not None
    assert codebook.dequantize().tobytes() == tiny.tobytes()


def test_entries_that_become_equal_are_merged() -> None:
    values = np.array([1, 1.0001, 2], np.float32).repeat(4)
    codebook = as_codebook("w", values, rounded=True)
    assert codebook is not None
    assert codebook.scale.tolist() == [1, 2]
    assert np.abs(codebook.dequantize() - values).max() < 1e-3


def test_dense_weights_go_onto_a_grid_whose_error_follows_the_step() -> None:
    fine = quantize("w", DENSE, Setting(0.1), bias=False, share=1)
    coarse = quantize("w", DENSE, Setting(0.4), bias=False, share=1)
    assert fine.encoding is coarse.encoding is Encoding.GRID8
    # A uniform error over one step has the deviation step / sqrt(12).
    assert relative_error(fine, DENSE) == pytest.approx(0.1 / np.sqrt(12), rel=0.05)
    assert relative_error(coarse, DENSE) == pytest.approx(0.4 / np.sqrt(12), rel=0.05)


def test_small_tensors_get_finer_grids() -> None:
    large = quantize("w", DENSE, Setting(), bias=False, share=1)
    small = quantize("w", DENSE, Setting(), bias=False, share=1e-4)
    assert small.scale[0] == pytest.approx(large.scale[0] / 10, rel=1e-3)


def test_wide_tensors_take_sixteen_bits_and_hopeless_ones_stay_floats() -> None:
    assert on_grid("w", np.array([0.5, 300], np.float32), 1.0).encoding is Encoding.GRID16
    wild = np.array([1e-3, 1e9] * 4, np.float32)
    assert on_grid("w", wild, 1e-3).dequantize().tobytes() == wild.tobytes()


def test_biases_take_eight_bits_other_vectors_half_precision() -> None:
    vector = DENSE[0]
    bias = quantize("b", vector, Setting(), bias=True, share=1e-6)
    assert bias.encoding is Encoding.GRID8
    assert np.abs(bias.values).max() == 127
    assert quantize("v", vector, Setting(), bias=False, share=1e-6).encoding is Encoding.FLOAT16
    # A variance of 1e-7 would lose its value in half precision.
    assert quantize("v", vector * np.float32(1e-7), Setting(), bias=False, share=1e-6).encoding is Encoding.FLOAT32


@pytest.mark.parametrize(
    "values", [np.zeros((3, 4), np.float32), np.full((2, 2), np.nan, np.float32), np.zeros((0, 4), np.float32)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_degenerate_tensors_survive(values: np.ndarray, bias: bool) -> None:
    tensor = quantize("w", values, Setting(0.1, keep_codebooks=False), bias=bias, share=1)
    assert tensor.dequantize().tobytes() == values.tobytes()


def test_the_bases_encoding_takes_the_nearest_values() -> None:
    unsorted = EncodedTensor("w", Encoding.CODEBOOK, np.zeros((2, 2), np.uint8), np.array([3, -1, 0], np.float32))
    found = on_base("w", np.array([[2.9, -5], [0.4, -0.6]], np.float32), unsorted)
    assert found.values.tolist() == [[0, 1], [2, 1]]
    rows = EncodedTensor("w", Encoding.GRID8, np.zeros((2, 2), np.int8), np.array([1, 0.5], np.float32))
    assert on_base("w", np.array([[1.2, 500], [1.2, -1.3]], np.float32), rows).values.tolist() == [[1, 127], [2, -3]]


def test_the_offsets_of_the_base_are_kept_and_counted_with() -> None:
    base = replace(on_grid("w", np.array([[1, 0], [2, -3]], np.float32), 1.0), offsets=np.array([[0.4, -0.4]], np.float32))
    found = on_base("w", base.dequantize(), base)
    assert found.same_as(base)
    assert on_base("w", np.array([[2.5, 0], [1.5, -2.5]], np.float32), base).values.tolist() == [[2, 0], [2, -2]]


def test_a_weight_that_its_offset_carries_across_zero_stays_where_it_is() -> None:
    plain = on_grid("w", np.array([[1, 0, -1], [2, -3, 1]], np.float32), 1.0)
    base = replace(plain, offsets=np.array([[-1.4, 0.2], [0.1, -1.3]], np.float32))
    assert (base.dequantize()[0] < 0).tolist() == [True, False, True]
    assert on_base("w", base.dequantize(), base).same_as(base)


def test_moved_shared_values_change_no_index() -> None:
    base = keep_exactly("w", SHARED)
    # One value moves past another: in sorted order every index would change.
    moved = keep_exactly("w", np.where(SHARED == -0.25, np.float32(0.75), SHARED * np.float32(1.01)))
    aligned = in_base_order(moved, base)
    assert aligned.dequantize().tobytes() == moved.dequantize().tobytes()
    assert aligned.values.tobytes() == base.values.tobytes()
    assert moved.values.tobytes() != base.values.tobytes()


def test_a_codebook_that_grows_keeps_the_old_entries_in_place() -> None:
    base = keep_exactly("w", SHARED)
    grown = SHARED.copy()
    grown[0, :5] = [7, 8, 9, 10, 11]
    aligned = in_base_order(keep_exactly("w", grown), base)
    assert aligned.dequantize().tobytes() == grown.tobytes()
    assert np.count_nonzero(aligned.values != base.values) == 5
