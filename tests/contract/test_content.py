"""Canonical bytes and tensors."""

from __future__ import annotations

import hashlib
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.content import Content
from model_registry.contract.errors import LimitExceeded, MalformedArtifact, Refusal, UnsupportedArtifact
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.tensors import NO_SCALE, EncodedTensor, Encoding, float32_tensor
from tests.contract.contents import awkward_floats, content, contents, shifted, small_network, tensor


@given(contents())
def test_bytes_and_content_are_one_to_one(made: Content) -> None:
    read = Content.from_data(made.data)
    assert read.data == made.data
    assert read.sha256 == hashlib.sha256(made.data).hexdigest()
    assert all(a.same_as(b) for a, b in zip(read.tensors, made.tensors, strict=True))


@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=4))
def test_damaged_bytes_are_refused_or_are_another_content(place: int, noise: bytes) -> None:
    data = small_network().data
    at = place % len(data)
    damaged = data[:at] + noise + data[at + len(noise) :]
    with suppress(Refusal):
        assert Content.from_data(damaged).data == damaged


@pytest.mark.parametrize("size", [0, 3, 8, 200, 1000])
def test_cut_bytes_are_refused(size: int) -> None:
    with pytest.raises(Refusal):
        Content.from_data(small_network().data[:size])


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(MalformedArtifact, match="follow the end"):
        Content.from_data(small_network().data + b"\0")


def test_other_first_bytes_are_refused() -> None:
    with pytest.raises(UnsupportedArtifact):
        Content.from_data(b"DFC2" + small_network().data[4:])


@pytest.mark.parametrize("limit", ["max_content_bytes", "max_manifest_bytes", "max_graph_bytes", "max_tensors"])
def test_every_limit_is_enforced(limit: str) -> None:
    with pytest.raises(LimitExceeded):
        Content.from_data(small_network().data, replace(DEFAULT_LIMITS, **{limit: 2}))


def test_two_tensors_cannot_share_a_name() -> None:
    twin = tensor("w", Encoding.FLOAT32, [1.0])
    with pytest.raises(MalformedArtifact, match="same name"):
        content(twin, twin)


def test_declared_sizes_are_not_believed() -> None:
    data = content(tensor("w", Encoding.FLOAT32, np.zeros(4))).data
    at = data.index(b"\x01\x00w") + 3
    grown = data[:at] + struct.pack("<BBI", 0, 1, 2**31) + data[at + 6 :]
    with pytest.raises(MalformedArtifact, match="ends too early"):
        Content.from_data(grown)


def test_the_name_is_part_of_the_identity() -> None:
    made = small_network()
    assert made.named("signs", "2.0.0").sha256 != made.sha256
    assert made.named("signs", "2.0.0").manifest.family == "signs"


def test_weights_are_what_the_encodings_say() -> None:
    made = content(
        tensor("grid", Encoding.GRID8, [[-2, 3]], [0.5]),
        tensor("rows", Encoding.GRID16, [[300], [2]], [0.5, 2.0]),
        tensor("book", Encoding.CODEBOOK, [2, 0], [9.0, 8.0, 7.0]),
        tensor("half", Encoding.FLOAT16, [0.5]),
        tensor("scalar", Encoding.GRID8, np.int8(4), [0.25]),
    )
    found = {name: values.tolist() for name, values in made.weights().items()}
    assert found == {"grid": [[-1.0, 1.5]], "rows": [[150.0], [4.0]], "book": [7.0, 9.0], "half": [0.5], "scalar": 1.0}
    assert {values.dtype for values in made.weights().values()} == {np.dtype(np.float32)}


def test_rows_are_shifted_and_stretched_but_for_their_zeros() -> None:
    made = content(
        shifted(tensor("grid", Encoding.GRID8, [[-2, 0], [3, 1]], [0.5]), [[0.25, -0.5]]),
        shifted(tensor("book", Encoding.CODEBOOK, [[2, 0], [1, 1]], [0.0, -1.0, 2.0]), [[0.25, 0.5], [1.0, 0.125]]),
        shifted(tensor("scalar", Encoding.GRID8, np.int8(-4), [0.25]), [[0.5], [0.25]]),
    )
    found = {name: values.tolist() for name, values in made.weights().items()}
    assert found == {
        "grid": [[-0.75, 0.0], [1.0, 0.0]],
        "book": [[3.25, 0.0], [-0.625, -0.625]],
        "scalar": -0.75,
    }
    assert {values.dtype for values in made.weights().values()} == {np.dtype(np.float32)}
    assert Content.from_data(made.data).data == made.data


def test_a_content_without_offsets_is_what_it_was_before_there_were_any() -> None:
    plain = tensor("w", Encoding.GRID8, [[1, 2]], [0.5])
    assert content(plain).sha256 != content(shifted(plain, [[0.0]])).sha256
    head = b"\x01\x00w" + struct.pack("<BBII", Encoding.GRID8, 2, 1, 2)
    assert head in content(plain).data


def test_float32_is_kept_bit_for_bit() -> None:
    values = awkward_floats("<f4")
    assert float32_tensor("w", values).dequantize().tobytes() == values.tobytes()


def test_a_number_without_dimensions_stays_one() -> None:
    made = float32_tensor("w", np.asarray(np.float32(2)))
    assert made.shape == ()
    assert Content.from_data(content(made).data).tensors[0].shape == ()


@pytest.mark.parametrize(
    ("encoding", "values", "scale"),
    [
        (Encoding.CODEBOOK, np.zeros(2, np.uint8), NO_SCALE),
        (Encoding.CODEBOOK, np.full(2, 3, np.uint8), np.ones(3, np.float32)),
        (Encoding.CODEBOOK, np.zeros(2, np.uint8), np.ones(257, np.float32)),
        (Encoding.GRID8, np.zeros((2, 2), np.int8), np.ones(3, np.float32)),
        (Encoding.GRID8, np.zeros((0, 2), np.int8), NO_SCALE),
        (Encoding.GRID8, np.zeros(2, np.uint8), np.ones(1, np.float32)),
        (Encoding.GRID8, np.zeros(2, np.int8), np.ones(1, np.float64)),
        (Encoding.FLOAT32, np.zeros(2, np.float32), np.ones(1, np.float32)),
        (Encoding.FLOAT32, np.zeros((1,) * 9, np.float32), NO_SCALE),
    ],
)
def test_parts_that_do_not_fit_make_no_tensor(encoding: Encoding, values: object, scale: object) -> None:
    with pytest.raises(MalformedArtifact):
        EncodedTensor("w", encoding, values, scale)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("encoding", "shape", "offsets"),
    [
        (Encoding.GRID8, (2, 3), np.zeros((1, 3), np.float32)),
        (Encoding.GRID8, (2, 3), np.zeros((3, 2), np.float32)),
        (Encoding.GRID8, (2, 3), np.zeros((1, 2), np.float64)),
        (Encoding.GRID8, (2, 3), np.zeros(2, np.float32)),
        (Encoding.FLOAT16, (2, 3), np.zeros((1, 2), np.float32)),
    ],
)
def test_offsets_that_do_not_fit_make_no_tensor(encoding: Encoding, shape: tuple[int, ...], offsets: Any) -> None:
    plain = tensor("w", encoding, np.zeros(shape), [1.0] if encoding is Encoding.GRID8 else ())
    with pytest.raises(MalformedArtifact, match="offsets"):
        replace(plain, offsets=offsets)


@pytest.mark.parametrize("name", ["", "w" * 257])
def test_names_have_1_to_256_bytes(name: str) -> None:
    with pytest.raises(MalformedArtifact, match="name"):
        tensor(name, Encoding.FLOAT32, [1.0])
