"""Every hostile file meets its own refusal; what many of them try is to take memory."""

from __future__ import annotations

import pytest

from model_registry.contract.delta import apply_delta
from model_registry.contract.errors import Refusal
from model_registry.contract.full import decode_full
from tests.contract.hostile.deltas import BASE, hostile_deltas
from tests.contract.hostile.forging import Hostile
from tests.contract.hostile.fulls import hostile_fulls


@pytest.mark.parametrize("hostile", list(hostile_fulls()), ids=lambda h: h.name)
def test_full(hostile: Hostile) -> None:
    with pytest.raises(Refusal) as refused:
        decode_full(hostile.data)
    assert isinstance(refused.value, hostile.refusal), refused.value


@pytest.mark.parametrize("hostile", list(hostile_deltas()), ids=lambda h: h.name)
def test_delta(hostile: Hostile) -> None:
    with pytest.raises(Refusal) as refused:
        apply_delta(BASE, hostile.data)
    assert isinstance(refused.value, hostile.refusal), refused.value
