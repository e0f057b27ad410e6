"""The layers of an update, which do not depend on each other."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.compression import processes
from model_registry.compression.calibration import calibrate_layers
from model_registry.compression.processes import at_once
from model_registry.compression.rounding import Compensated
from model_registry.contract.content import content_parts, digest_of
from model_registry.contract.tensors import EncodedTensor
from tests.registry.compression.test_propagation import PRICE, WEIGHTS, chain, pictures


def digest(*tensors: EncodedTensor) -> str:
    return digest_of(content_parts(b"", b"", tensors))


def test_an_update_is_the_same_however_many_processes_round_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORTH_IT", 0)
    calibration = calibrate_layers(chain(), pictures(20, seed=1))
    base = Compensated(calibration, PRICE).round(WEIGHTS, {}, frozenset())
    rng = np.random.default_rng(5)
    later = {name: value + np.float32(0.02) * rng.standard_normal(value.shape, np.float32) for name, value in WEIGHTS.items()}
    unchanged = frozenset({"second", "second.bias"})
    alone = Compensated(calibration, PRICE / 10).round(later, base, unchanged)
    with at_once(2) as each:
        together = Compensated(calibration, PRICE / 10, each=each).round(later, base, unchanged)
    assert list(together) == list(alone)
    assert digest(*together.values()) == digest(*alone.values())
    assert digest(alone["second"]) == digest(base["second"])
    assert digest(alone["first"]) != digest(base["first"])
