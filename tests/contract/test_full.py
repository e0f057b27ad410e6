"""Full artifacts: exact, deterministic, bounded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from model_registry.contract.content import Content
from model_registry.contract.errors import LimitExceeded, UnsupportedArtifact
from model_registry.contract.full import decode_full, encode_full, read_full_header
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.tensors import EncodedTensor, Encoding
from tests.contract import second_decoder
from tests.contract.contents import awkward_floats, content, contents, small_network, sparse_codebook, tensor


@given(contents())
def test_any_content_comes_back_byte_for_byte(made: Content) -> None:
    data = encode_full(made)
    assert decode_full(data).data == made.data
    assert second_decoder.decode_full(data) == made.data


def test_the_header_names_the_content() -> None:
    made = small_network()
    header = read_full_header(encode_full(made))
    assert (header.content_sha256, header.content_bytes) == (made.sha256, len(made.data))


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize("repeat", [1, 400])
def test_floats_keep_every_bit(dtype: str, repeat: int) -> None:
    encoding = Encoding.FLOAT32 if dtype == "<f4" else Encoding.FLOAT16
    values = np.tile(awkward_floats(dtype), repeat)
    found = decode_full(encode_full(content(tensor("w", encoding, values)))).tensors[0]
    assert found.values.tobytes() == values.tobytes()


def test_float32_of_many_values_keeps_every_bit_and_costs_less_than_raw() -> None:
    values = np.random.default_rng(1).standard_normal(20_000).astype("<f4")
    data = encode_full(content(tensor("w", Encoding.FLOAT32, values)))
    assert decode_full(data).tensors[0].values.tobytes() == values.tobytes()
    assert len(data) < 0.95 * values.nbytes


def test_float32_with_few_values_costs_what_its_indices_cost() -> None:
    codebook = sparse_codebook("w", (64, 64, 3, 3), seed=2)
    kept = content(tensor("w", Encoding.FLOAT32, codebook.dequantize()))
    assert len(encode_full(kept)) < 1.02 * len(encode_full(content(codebook)))


def test_an_unsorted_codebook_costs_what_a_sorted_one_costs() -> None:
    unsorted = sparse_codebook("w", (64, 64, 3, 3), seed=3)
    order = np.argsort(unsorted.scale, kind="stable")
    ranks = np.argsort(order).astype(np.uint8)
    rearranged = EncodedTensor("w", Encoding.CODEBOOK, ranks[unsorted.values], unsorted.scale[order])
    assert rearranged.dequantize().tobytes() == unsorted.dequantize().tobytes()
    assert len(encode_full(content(unsorted))) < len(encode_full(content(rearranged))) + 64


@pytest.mark.parametrize("side", [0, 1])
def test_tensors_without_or_with_one_value_come_back(side: int) -> None:
    made = content(
        *(
            tensor(e.name, e, np.zeros((side, 3)), [1.0] if e not in (Encoding.FLOAT32, Encoding.FLOAT16) else ())
            for e in Encoding
        )
    )
    assert decode_full(encode_full(made)).data == made.data


def test_a_content_above_the_limit_is_refused_before_decoding() -> None:
    made = small_network()
    limits = replace(DEFAULT_LIMITS, max_content_bytes=len(made.data) - 1)
    with pytest.raises(LimitExceeded):
        decode_full(encode_full(made), limits)


def test_an_artifact_above_the_limit_is_refused() -> None:
    data = encode_full(small_network())
    with pytest.raises(LimitExceeded):
        decode_full(data, replace(DEFAULT_LIMITS, max_artifact_bytes=len(data) - 1))


def test_another_kind_of_file_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedArtifact, match=r"not a full artifact"):
        decode_full(b"DFD1" + bytes(200))


def test_two_fresh_processes_encode_the_same_bytes() -> None:
    program = (
        "import hashlib;from tests.contract.contents import small_network as n;"
        "from model_registry.contract.full import encode_full;from model_registry.deltas import make_delta;"
        "print(hashlib.sha256(encode_full(n())+make_delta(n(),n(seed=2)).data).hexdigest())"
    )
    runs = {subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout for _ in range(2)}
    assert len(runs) == 1
