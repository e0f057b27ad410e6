"""The layers of an update, one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from model_registry.compression.calibration import Calibration, calibrate_layers
from model_registry.compression.quantization import Floats
from model_registry.compression.revision import revise_layer
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import content_parts, digest_of
from model_registry.contract.tensors import EncodedTensor, float32_tensor
from tests.registry.compression.test_propagation import PRICE, WEIGHTS, answers, chain, pictures


def floats(weights: Mapping[str, Floats]) -> tuple[EncodedTensor, ...]:
    return tuple(float32_tensor(name, value) for name, value in weights.items())


def digest(*tensors: EncodedTensor) -> str:
    return digest_of(content_parts(b"", b"", tensors))


def calibrated_on(weights: Mapping[str, Floats], count: int) -> Calibration:
    return calibrate_layers(replace(chain(), tensors=floats(weights)), pictures(count, seed=1))


def each_by_itself(
    calibration: Calibration, weights: Mapping[str, Floats], base: Mapping[str, EncodedTensor], price: float
) -> Iterator[EncodedTensor]:
    for calibrated in calibration.layers.values():
        layer = calibrated.layer
        bias, bias_before = (weights[layer.bias], base[layer.bias]) if layer.bias else (None, None)
        revised = revise_layer(
            calibrated, weights[layer.weight], bias, base=base[layer.weight], base_bias=bias_before, price=price
        )
        yield from (tensor for tensor in revised if tensor is not None)


def test_what_a_layer_leaves_undone_the_next_ones_bring() -> None:
    base = Compensated(calibrated_on(WEIGHTS, 60), PRICE / 16).round(WEIGHTS, {}, frozenset())
    later, elsewhere = {name: value * np.float32(1.1) for name, value in WEIGHTS.items()}, pictures(60, seed=2)
    exact, calibration = answers({tensor.name: tensor for tensor in floats(later)}, elsewhere), calibrated_on(later, 60)

    def error(tensors: Iterable[EncodedTensor]) -> float:
        return float(np.square(answers({tensor.name: tensor for tensor in tensors}, elsewhere) - exact).mean())

    in_sequence = Compensated(calibration, PRICE / 4).round(later, base, frozenset())
    assert error(in_sequence.values()) < 0.3 * error(each_by_itself(calibration, later, base, PRICE / 4))


def test_a_layer_from_the_same_floats_stays_what_the_base_has() -> None:
    base = Compensated(calibrated_on(WEIGHTS, 20), PRICE).round(WEIGHTS, {}, frozenset())
    later = WEIGHTS | {"first": WEIGHTS["first"] * np.float32(1.1)}
    unchanged = frozenset(WEIGHTS) - {"first"}
    found = Compensated(calibrated_on(later, 20), PRICE / 10).round(later, base, unchanged)
    # The bias takes what the weight's rounding owes it.
    assert {name for name in base if digest(found[name]) != digest(base[name])} == {"first", "first.bias"}
    assert list(found) == list(base)
