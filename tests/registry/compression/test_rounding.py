"""The layers of an update: each by itself, or one behind the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model_registry.compression import pipeline, processes, rounding
from model_registry.compression.calibration import calibrate_layers
from model_registry.compression.pipeline import SourceNetwork
from model_registry.compression.processes import at_once
from model_registry.compression.propagation import Propagation
from model_registry.compression.quantization import Floats, Setting
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import content_parts, digest_of
from model_registry.contract.tensors import EncodedTensor, float32_tensor
from tests.registry.compression.test_propagation import PRICE, WEIGHTS, answers, chain, pictures


def floats(weights: Mapping[str, Floats]) -> tuple[EncodedTensor, ...]:
    return tuple(float32_tensor(name, value) for name, value in weights.items())


def digest(*tensors: EncodedTensor) -> str:
    return digest_of(content_parts(b"", b"", tensors))


def test_an_update_is_the_same_however_many_processes_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTH_IT", 0)
    calibration = calibrate_layers(chain(), pictures(20, seed=1))
    base = Compensated(calibration, PRICE).round(WEIGHTS, {}, frozenset(), in_sequence=True)
    rng = np.random.default_rng(5)
    later = {name: value + np.float32(0.02) * rng.standard_normal(value.shape, np.float32) for name, value in WEIGHTS.items()}
    unchanged = frozenset({"second", "second.bias"})
    alone = Compensated(calibration, PRICE / 10).round(later, base, unchanged, in_sequence=False)
    with at_once(2) as each:
        together = Compensated(calibration, PRICE / 10, each=each).round(later, base, unchanged, in_sequence=False)
    assert list(together) == list(alone)
    assert digest(*together.values()) == digest(*alone.values())
    assert digest(alone["second"]) == digest(base["second"])
    assert digest(alone["first"]) != digest(base["first"])


def test_what_layers_of_the_base_take_back_for_each_other_is_kept() -> None:
    calibration = calibrate_layers(chain(), pictures(60, seed=1))
    base = Compensated(calibration, 4 * PRICE).round(WEIGHTS, {}, frozenset(), in_sequence=True)
    later = {name: value * np.float32(1.02) for name, value in WEIGHTS.items()}
    elsewhere = pictures(60, seed=2)
    exact = answers({tensor.name: tensor for tensor in floats(later)}, elsewhere)
    retrained = calibrate_layers(replace(chain(), tensors=floats(later)), pictures(60, seed=1))

    def error(*, in_sequence: bool) -> float:
        tensors = Compensated(retrained, PRICE).round(later, base, frozenset(), in_sequence=in_sequence)
        return float(np.square(answers(tensors, elsewhere) - exact).mean())

    assert error(in_sequence=True) < 0.8 * error(in_sequence=False)


@pytest.mark.parametrize(("recipe", "expected"), [({"price": 1e-7}, 1), ({"step": 0.15, "codebooks": False}, 0)])
def test_a_base_that_was_made_in_a_sequence_is_followed_in_one(
    network: SourceNetwork, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], expected: int
) -> None:
    walked: list[Propagation] = []

    def walk(*arguments: Any) -> Propagation:
        walked.append(Propagation(*arguments))
        return walked[-1]

    monkeypatch.setattr(rounding, "Propagation", walk)
    base = pipeline.compress(network, Setting(0.15, keep_codebooks=False))
    line = replace(base.manifest.lineage, recipe={**recipe, "sources": base.manifest.lineage.recipe["sources"]})
    base = replace(base, manifest=replace(base.manifest, lineage=line))
    shape = network.manifest.inputs[0].shape
    requests = [
        {network.manifest.inputs[0].name: np.random.default_rng(n).standard_normal(shape, np.float32)} for n in range(4)
    ]
    later = replace(network, weights={name: value * np.float32(1.01) for name, value in network.weights.items()})
    pipeline.compress(later, Compensated(calibrate_layers(later.exact(), requests), 1e-3), base=base)
    assert len(walked) == expected
