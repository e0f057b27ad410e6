"""Every hostile file meets its own refusal; what many of them try is to take memory."""

from __future__ import annotations

import numpy as np
import pytest

from model_registry.contract.codecs.packing import pack, unpack
from model_registry.contract.codecs.sections import compress, decompress
from model_registry.contract.content import ByteReader
from model_registry.contract.delta import apply_delta
from model_registry.contract.errors import MalformedArtifact, Refusal
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


def test_nothing_follows_a_frame_that_holds_nothing() -> None:
    empty = compress(b"", level=3)
    assert decompress(empty, max_bytes=0) == b""
    for more in (b"!", empty):
        with pytest.raises(MalformedArtifact):
            decompress(empty + more, max_bytes=0)


def test_packed_numbers_are_filled_up_with_zeros() -> None:
    widths = np.array([3, 2])
    [data] = pack(np.array([7, 3]), widths)
    assert unpack(ByteReader(bytes([data])), widths).tolist() == [7, 3]
    with pytest.raises(MalformedArtifact):
        unpack(ByteReader(bytes([data | 0x20])), widths)
