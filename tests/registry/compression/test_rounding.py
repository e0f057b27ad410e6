"""How a whole network is rounded near its base: what the layers' updates do together."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.compression.calibration import Calibrated, Calibration
from model_registry.compression.quantization import grid_tensor
from model_registry.compression.rounding import coherence_of
from model_registry.models.linear_layers import LinearLayer
from tests.registry.compression.test_compensation import correlated, moments

OUTPUTS, INPUTS = 5, 8
MOMENTS = moments(correlated(INPUTS))
LAYERS = {name: Calibrated(LinearLayer(name, f"{name}.b", "x"), MOMENTS, 2.0) for name in ("one", "two")}
CALIBRATION = Calibration(LAYERS, graph=b"", requests=())
BASE = {
    tensor.name: tensor
    for name in CALIBRATION.layers
    for tensor in (
        grid_tensor(name, np.random.default_rng(1).integers(-20, 21, (OUTPUTS, INPUTS)), 0.5),
        grid_tensor(f"{name}.b", np.arange(OUTPUTS), 0.25),
    )
}


def moved(name: str) -> dict[str, np.ndarray]:
    """The base's weights with 1 added to every bias of a layer, which makes an energy of 1 at each of its outputs."""
    weights = {key: tensor.dequantize() for key, tensor in BASE.items()}
    return {**weights, f"{name}.b": weights[f"{name}.b"] + np.float32(1)}


def test_layers_that_move_in_concert_do_more_than_each_alone() -> None:
    weights = {**moved("one"), "two.b": moved("two")["two.b"]}
    alone = 2 * 2.0 * OUTPUTS
    assert coherence_of(3 * alone, CALIBRATION, weights, BASE) == pytest.approx(3)


def test_an_update_that_does_less_than_its_layers_is_not_in_concert() -> None:
    assert coherence_of(1.0, CALIBRATION, moved("one"), BASE) == 1


def resized(levels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The levels where both overlap, and something else beyond."""
    shared = tuple(slice(0, min(sides)) for sides in zip(levels.shape, shape, strict=True))
    laid = np.full(shape, 7)
    laid[shared] = levels[shared]
    return laid


def test_layers_that_the_base_does_not_have_do_not_count_and_those_of_another_size_where_both_overlap() -> None:
    other = {key: tensor for key, tensor in BASE.items() if not key.startswith("two")}
    weights = {**moved("one"), "two.b": moved("two")["two.b"]}
    assert coherence_of(3 * 2.0 * OUTPUTS, CALIBRATION, weights, other) == pytest.approx(3)
    for outputs, energy in ((OUTPUTS - 1, OUTPUTS - 1), (OUTPUTS + 1, OUTPUTS)):
        other["one"] = grid_tensor("one", resized(BASE["one"].values, (outputs, INPUTS)), 0.5)
        other["one.b"] = grid_tensor("one.b", resized(BASE["one.b"].values, (outputs,)), 0.25)
        assert coherence_of(3 * 2.0 * energy, CALIBRATION, weights, other) == pytest.approx(3)
