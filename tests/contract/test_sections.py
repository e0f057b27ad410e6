"""Lengths of a payload's parts: as few bytes as they need, in one way only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.codecs.sections import read_short_length, short_length
from model_registry.contract.content import ByteReader
from model_registry.contract.errors import MalformedArtifact


@given(st.integers(0, 2**32 - 1))
def test_lengths_come_back(size: int) -> None:
    data = short_length(size)
    assert len(data) == max(-(-size.bit_length() // 7), 1)
    reader = ByteReader(data + b"rest")
    assert read_short_length(reader) == size
    assert reader.rest() == b"rest"


@pytest.mark.parametrize(
    "data",
    [short_length(2**32) + bytes(9), b"\x80" * 9, b"\x94\0", b"\xff\xff\xff\xff\x10", b"\x80"],
    ids=["33 bits", "without an end", "a byte too many", "bits beyond the 32nd", "cut"],
)
def test_other_ways_to_write_a_length_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedArtifact):
        read_short_length(ByteReader(data))
