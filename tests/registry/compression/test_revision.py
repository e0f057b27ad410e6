"""A layer's new weights near the base's: few changes, chosen so that what they miss matters little."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import numpy.typing as npt
import pytest

from model_registry.compression import revision
from model_registry.compression.calibration import Calibrated, energy
from model_registry.compression.quantization import grid_tensor, on_base
from model_registry.compression.revision import revise_bias, revise_layer
from model_registry.contract.tensors import EncodedTensor, Encoding
from model_registry.models.linear_layers import LinearLayer
from tests.registry.compression.test_compensation import correlated, moments

Floats = npt.NDArray[np.float32]
OUTPUTS, INPUTS = 24, 40
LAYER = LinearLayer("w", "b", "x")
SWEEP = revision._sweep
CALIBRATED = Calibrated(LAYER, moments(correlated(INPUTS)), 1.0)


def codebook(outputs: int = OUTPUTS, *, entries: int = 64) -> EncodedTensor:
    rng = np.random.default_rng(1)
    scale = np.sort(rng.standard_normal(entries)).astype(np.float32)
    scale[np.abs(scale).argmin()] = 0
    # Entries in no order, as trained quantisation leaves them.
    indices = rng.integers(0, entries, (outputs, INPUTS)).astype(np.uint8)
    return EncodedTensor("w", Encoding.CODEBOOK, indices, rng.permutation(scale))


def grid(outputs: int = OUTPUTS) -> EncodedTensor:
    return grid_tensor("w", np.random.default_rng(1).integers(-20, 21, (outputs, INPUTS)), 0.05)


def biases(outputs: int = OUTPUTS) -> EncodedTensor:
    return grid_tensor("b", np.random.default_rng(2).integers(-127, 128, outputs), 0.01)


def trained(base: EncodedTensor, by: float, seed: int = 3) -> Floats:
    """The base's weights a little later, most of the change in one direction of each row as gradients have it."""
    rng = np.random.default_rng(seed)
    together = rng.standard_normal((base.shape[0], 1)) * rng.standard_normal((1, *base.shape[1:]))
    return (base.dequantize() + by * (together + 0.3 * rng.standard_normal(base.shape))).astype(np.float32)


def damage(weight: Floats, bias: Floats, tensor: EncodedTensor, bias_tensor: EncodedTensor) -> float:
    errors = np.concatenate([tensor.dequantize() - weight, (bias_tensor.dequantize() - bias)[:, np.newaxis]], axis=1)
    return energy(errors[np.newaxis].astype(np.float64), CALIBRATED.moments)


def revise(weight: Floats, bias: Floats, base: EncodedTensor, price: float) -> tuple[EncodedTensor, EncodedTensor]:
    tensor, owed = revise_layer(CALIBRATED, weight, bias, base=base, base_bias=biases(base.shape[0]), price=price)
    assert owed is not None
    return tensor, owed


@pytest.mark.parametrize("base", [codebook(), grid()], ids=["codebook", "grid"])
def test_fewer_changes_deliver_more_than_the_nearest_levels_of_the_base(base: EncodedTensor) -> None:
    weight, bias = trained(base, 0.02), biases().dequantize()
    nearest = on_base("w", weight, base)
    tensor, owed = revise(weight, bias, base, price=5e-4)
    assert tensor.encoding is base.encoding
    assert np.count_nonzero(tensor.values != base.values) <= np.count_nonzero(nearest.values != base.values)
    assert damage(weight, bias, tensor, owed) < damage(weight, bias, nearest, biases())
    assert damage(weight, bias, tensor, owed) < 0.2 * damage(weight, bias, base, biases())


@pytest.mark.parametrize("base", [codebook(), grid()], ids=["codebook", "grid"])
def test_a_layer_that_rests_is_left_alone(base: EncodedTensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going over it again would find nothing."""
    weight, bias, sweeps = trained(base, 0.02), biases().dequantize(), count()
    monkeypatch.setattr(revision, "_sweep", lambda *given: (next(sweeps), SWEEP(*given))[1])
    rested, owed = revise(weight, bias, base, price=3e-4)
    few = next(sweeps)
    monkeypatch.setattr(revision._Draft, "rests", lambda *_: False)
    swept, owed_then = revise(weight, bias, base, price=3e-4)
    assert few < next(sweeps) - few - 1
    assert rested.same_as(swept)
    assert owed.same_as(owed_then)


def test_weights_that_move_alike_move_the_codebook_instead_of_indices() -> None:
    base = codebook()
    # In order, and not by rows: those would be stretched.
    moves = 0.05 * np.sign(base.scale) * (np.abs(base.scale) > np.median(np.abs(base.scale)))
    weight = (base.dequantize() + moves[base.values]).astype(np.float32)
    tensor, owed = revise(weight, biases().dequantize(), base, price=1e-4)
    assert tensor.encoding is Encoding.CODEBOOK
    assert np.count_nonzero(tensor.values != base.values) < 0.01 * base.values.size
    assert tensor.scale[base.scale == 0] == 0
    assert damage(weight, biases().dequantize(), tensor, owed) < 0.02 * damage(weight, biases().dequantize(), base, biases())


@pytest.mark.parametrize("base", [codebook(), grid()], ids=["codebook", "grid"])
def test_a_price_that_nothing_is_worth_leaves_the_base(base: EncodedTensor) -> None:
    tensor, owed = revise(trained(base, 0.001), biases().dequantize(), base, price=1e3)
    assert tensor.same_as(base)
    assert owed.same_as(biases())


def test_a_codebook_too_coarse_for_the_update_gives_way_to_a_grid() -> None:
    base = codebook(entries=4)
    weight, bias = trained(base, 0.05), biases().dequantize()
    tensor, owed = revise(weight, bias, base, price=1e-6)
    assert tensor.encoding is not Encoding.CODEBOOK
    assert damage(weight, bias, tensor, owed) < 0.01 * damage(weight, bias, base, biases())


def test_the_step_of_a_base_is_halved_until_it_is_fine_enough() -> None:
    base = grid()
    tensor, _ = revise(trained(base, 0.01), biases().dequantize(), base, price=1e-6)
    halvings = np.log2(base.scale[0] / tensor.scale[0])
    assert halvings > 0
    assert halvings == round(halvings)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("step", [0.0, -0.05, np.nan, np.inf])
def test_a_base_whose_steps_mean_nothing_is_replaced(step: float) -> None:
    base, bias = grid_tensor("w", grid().values, 0.05), biases()
    senseless = [replace(tensor, scale=np.full(1, step, np.float32)) for tensor in (base, bias)]
    weight = trained(base, 0.01)
    tensor, owed = revise_layer(CALIBRATED, weight, bias.dequantize(), base=senseless[0], base_bias=senseless[1], price=1e-6)
    assert owed is not None
    assert damage(weight, bias.dequantize(), tensor, owed) < 1e-3 * energy(weight[np.newaxis], CALIBRATED.moments[:, :-1, :-1])


@pytest.mark.parametrize("base", [codebook(), grid()], ids=["codebook", "grid"])
@pytest.mark.parametrize("outputs", [OUTPUTS + 3, OUTPUTS - 3])
def test_heads_that_grow_or_shrink_keep_what_both_have(base: EncodedTensor, outputs: int) -> None:
    weight = trained(codebook(outputs), 0.3)
    both = min(outputs, OUTPUTS)
    weight[:both] = base.dequantize()[:both]
    bias = np.zeros(outputs, np.float32)
    bias[:both] = biases().dequantize()[:both]
    tensor, owed = revise_layer(CALIBRATED, weight, bias, base=base, base_bias=biases(), price=1e-3)
    assert tensor.shape == weight.shape
    assert owed is not None
    assert owed.shape == bias.shape
    assert np.abs(tensor.dequantize()[:both] - base.dequantize()[:both]).mean() < 0.01
    before = np.zeros_like(weight)
    before[:both] = base.dequantize()[:both]
    assert np.abs(tensor.dequantize() - weight).mean() <= np.abs(before - weight).mean()


def test_where_the_weight_stays_the_bias_takes_what_is_owed() -> None:
    base = codebook()
    weight = base.dequantize() + np.float32(0.01)
    bias = biases().dequantize() + np.float32(0.02)
    owed = revise_bias(CALIBRATED, weight, bias, base=base, base_bias=biases(), price=1e-6)
    assert owed is not None
    assert damage(weight, bias, base, owed) < 0.5 * damage(weight, bias, base, on_base("b", bias, biases()))


@pytest.mark.parametrize("step", [1e-7, 0.01])
def test_a_bias_that_makes_up_for_its_weights_goes_further_than_the_grid_of_the_base_was_made_for(step: float) -> None:
    base, before = codebook(), grid_tensor("b", np.random.default_rng(2).integers(-127, 128, OUTPUTS), step)
    weight, bias = base.dequantize() + np.float32(0.02), before.dequantize()
    tensor, owed = revise_layer(CALIBRATED, weight, bias, base=base, base_bias=before, price=5e-3)
    assert owed is not None
    # Much of what the weights do is a shift of the outputs, and that is all that is worth its price here.
    assert np.count_nonzero(tensor.values != base.values) < 0.02 * base.values.size
    assert damage(weight, bias, tensor, owed) < 0.3 * damage(weight, bias, base, before)


TINY = grid_tensor("b", np.random.default_rng(2).integers(-127, 128, OUTPUTS), 1e-7)


@pytest.mark.parametrize("price", [1e-6, 1e-3])
def test_a_bias_beyond_the_reach_of_its_base_has_the_step_of_that_doubled(price: float) -> None:
    """Which a delta tells in a byte."""
    base = codebook()
    _, owed = revise_layer(
        CALIBRATED, base.dequantize(), np.full(OUTPUTS, 2.0, np.float32), base=base, base_bias=TINY, price=price
    )
    assert owed is not None
    octaves = np.log2(owed.scale[0] / TINY.scale[0])
    assert octaves > 0
    assert octaves == round(octaves)
    assert np.abs(owed.dequantize() - 2).max() < 0.5


@pytest.mark.parametrize("step", [1e-12, 1e-30])
def test_a_bias_is_reached_from_any_step(step: float) -> None:
    base, before = codebook(), grid_tensor("b", np.zeros(OUTPUTS, np.int64), step)
    _, owed = revise_layer(
        CALIBRATED, base.dequantize(), np.full(OUTPUTS, 2.0, np.float32), base=base, base_bias=before, price=1e-6
    )
    assert owed is not None
    assert np.abs(owed.dequantize() - 2).max() < 0.01


def test_the_step_of_a_bias_is_halved_to_the_nearest_octave() -> None:
    """And no further: each halving costs a bit for every row that changes."""
    base = codebook()
    wanted = biases().dequantize() + np.float32(0.004)
    step = {}
    for price in (1e-6, 2e-6, 4e-6):
        _, owed = revise_layer(CALIBRATED, base.dequantize(), wanted, base=base, base_bias=biases(), price=price)
        assert owed is not None
        step[price] = owed.scale[0] / biases().scale[0]
    assert step[4e-6] == 2 * step[1e-6]


def test_a_bias_that_is_not_worth_its_price_stays_however_far_it_should_go() -> None:
    base = codebook()
    _, owed = revise_layer(
        CALIBRATED, base.dequantize(), np.full(OUTPUTS, 2.0, np.float32), base=base, base_bias=TINY, price=1e3
    )
    assert owed is not None
    assert owed.same_as(TINY)


def test_weights_that_training_pruned_stay_pruned_where_a_little_is_wanted_of_them() -> None:
    """What is to be taken back of other layers' errors gives every weight a little."""
    base, bias = codebook(), biases().dequantize()
    pruned = base.dequantize() * (np.abs(base.dequantize()) > 0.4)
    wanted = (pruned + 0.03 * np.random.default_rng(4).standard_normal(pruned.shape)).astype(np.float32)

    def kept_at_zero(trained: Floats | None) -> float:
        tensor, _ = revise_layer(CALIBRATED, wanted, bias, base=base, base_bias=biases(), price=1e-2, trained=trained)
        return float((tensor.without_offsets()[pruned == 0] == 0).mean())

    assert kept_at_zero(pruned) > 0.9
    assert kept_at_zero(None) < 0.5


def test_pruning_that_is_not_worth_its_price_leaves_the_base() -> None:
    """As zeros that the base's compensation gave a little of their neighbours' errors, long before this update."""
    base = codebook()
    weight = np.where(np.abs(base.dequantize()) > 0.1, base.dequantize(), 0).astype(np.float32)
    tensor, owed = revise(weight, biases().dequantize(), base, price=1.0)
    assert tensor.same_as(base)
    assert owed.same_as(biases())


def test_a_layer_on_which_nothing_depends_is_left_alone() -> None:
    base, idle = codebook(), Calibrated(LAYER, CALIBRATED.moments, 0.0)
    tensor, owed = revise_layer(
        idle, trained(base, 0.02), biases().dequantize() + np.float32(0.5), base=base, base_bias=biases(), price=1e-6
    )
    assert owed is not None
    assert tensor.same_as(base)
    assert owed.same_as(biases())


def test_layers_without_a_bias_and_in_groups_are_revised_too() -> None:
    layer = LinearLayer("w", None, "x", groups=3)
    calibrated = Calibrated(layer, moments(correlated(INPUTS, groups=3)), 1.0)
    base = codebook()
    tensor, owed = revise_layer(calibrated, trained(base, 0.02), None, base=base, base_bias=None, price=1e-3)
    assert owed is None
    assert tensor.shape == base.shape


def test_the_same_update_gives_the_same_bytes() -> None:
    base = codebook()
    weight, bias = trained(base, 0.02), biases().dequantize()
    (first, one), (second, two) = (revise(weight, bias, base, price=1e-3) for _ in range(2))
    assert first.same_as(second)
    assert one.same_as(two)
