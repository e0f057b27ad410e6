"""The layers of an update, one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from model_registry.compression import pipeline
from model_registry.compression.calibration import Calibration, calibrate_layers
from model_registry.compression.pipeline import SourceNetwork
from model_registry.compression.propagation import Propagation
from model_registry.compression.quantization import Floats, Setting
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
    # The bias may take what the weight's rounding owes it.
    assert {name for name in base if digest(found[name]) != digest(base[name])} - {"first.bias"} == {"first"}
    assert list(found) == list(base)


def test_a_layer_behind_unchanged_ones_is_aimed_at_the_answers_to_what_they_let_through() -> None:
    base = Compensated(calibrated_on(WEIGHTS, 20), PRICE).round(WEIGHTS, {}, frozenset())
    later = WEIGHTS | {"third": WEIGHTS["third"] * np.float32(1.3)}
    calibration = calibrated_on(later, 20)
    found = Compensated(calibration, PRICE / 10).round(later, base, frozenset(WEIGHTS) - {"third"})
    propagation = Propagation(calibration, later)
    for name in ("first", "second"):
        propagation.reach(calibration.layers[name])
        propagation.take([base[name], base[f"{name}.bias"]])
    aim = propagation.reach(calibration.layers["third"])
    rows, _ = aim.corrected(aim.calibrated.layer.rows(later["third"].astype(np.float64)), np.zeros((1, 12)))
    wanted = aim.calibrated.layer.weight_of(rows, later["third"].shape).astype(np.float32)
    expected, _ = revise_layer(aim.calibrated, wanted, None, base=base["third"], base_bias=None, price=PRICE / 10)
    assert digest(found["third"]) == digest(expected)
    assert digest(found["third"]) != digest(base["third"])


def test_where_the_bias_alone_changed_the_weight_stays() -> None:
    base = Compensated(calibrated_on(WEIGHTS, 20), PRICE).round(WEIGHTS, {}, frozenset())
    later = WEIGHTS | {"second.bias": WEIGHTS["second.bias"] + np.float32(0.5)}
    found = Compensated(calibrated_on(later, 20), PRICE / 10).round(later, base, frozenset(WEIGHTS) - {"second.bias"})
    assert {name for name in base if digest(found[name]) != digest(base[name])} == {"second.bias"}
    assert np.abs(found["second.bias"].dequantize() - base["second.bias"].dequantize() - 0.5).max() < 0.2


def test_of_an_update_only_the_layers_whose_floats_changed_are_rounded(network: SourceNetwork) -> None:
    base, last = pipeline.compress(network, Setting(0.15)), list(network.weights)[-1]
    later = replace(network, weights={**network.weights, last: network.weights[last] + np.float32(1)})
    [given] = network.manifest.inputs
    requests = [{given.name: np.random.default_rng(n).standard_normal(given.shape, np.float32)} for n in range(4)]
    found = pipeline.compress(later, Compensated(calibrate_layers(later.exact(), requests), 1e-6), base=base)
    changed = [new.name for old, new in zip(base.tensors, found.tensors, strict=True) if not old.same_as(new)]
    assert changed == [last]
