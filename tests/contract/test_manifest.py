"""What a manifest accepts, and that its bytes are canonical."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.canonical import canonical_json, parse_json_object
from model_registry.contract.errors import ManifestRefused, MessageRefused
from model_registry.contract.fields import Fields
from model_registry.contract.manifest import GoldenVector, InputSpec, Lineage, Manifest
from model_registry.contract.preprocessing import Preprocessing
from tests.contract.contents import manifest

FULL = manifest(
    preprocessing=Preprocessing((256, 256), (227, 227), "BGR", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
    golden=(GoldenVector(7, (1, 5), (0.25, -3.5), 0.125, 1.5, 0.015),),
    lineage=Lineage("ab" * 32, None, {"k": [1, 2.5, "é"]}),
)


def test_a_manifest_survives_its_bytes() -> None:
    read = Manifest.from_bytes(FULL.to_bytes())
    assert read.to_bytes() == FULL.to_bytes()
    assert (read.preprocessing, read.golden, read.labels) == (FULL.preprocessing, FULL.golden, FULL.labels)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("format", True),
        ("family", "Signs"),
        ("family", ""),
        ("version", "1.0"),
        ("version", "1.0.0+build"),
        ("version", "01.0.0"),
        ("architecture", "../../etc"),
        ("parameters", -1),
        ("parameters", 1.5),
        ("labels", ["a", 3]),
        ("labels", "stop"),
        ("inputs", [{"name": "x", "dtype": "complex64", "shape": [1]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [0]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [2**20, 2**20]}]),
        ("inputs", [{"name": "x", "dtype": "float32", "shape": [1], "extra": 1}]),
        ("golden", [{"seed": 1, "indices": [1], "values": [], "mean": 0, "deviation": 0, "tolerance": 0}]),
        ("lineage", {"source_sha256": "xyz", "base_sha256": None, "recipe": {}}),
        ("preprocessing", {"resize": [8, 8]}),
        ("preprocessing", []),
        ("unknown", 1),
    ],
)
def test_wrong_fields_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ManifestRefused):
        Manifest.from_bytes(canonical_json(FULL.to_json() | {field: value}))


@pytest.mark.parametrize("field", list(FULL.to_json()))
def test_missing_fields_are_refused(field: str) -> None:
    value = FULL.to_json()
    del value[field]
    if field == "preprocessing":
        assert Manifest.from_bytes(FULL.to_bytes()).preprocessing is not None
    with pytest.raises(ManifestRefused):
        Manifest.from_bytes(canonical_json(value))


@pytest.mark.parametrize("change", [b" ", b"\n"])
def test_other_bytes_for_the_same_value_are_refused(change: bytes) -> None:
    with pytest.raises(ManifestRefused, match="canonical"):
        Manifest.from_bytes(FULL.to_bytes() + change)


@pytest.mark.parametrize(("family", "version"), [("Signs", "1.0.0"), ("signs", "one"), ("a/b", "1.0.0")])
def test_a_bad_name_is_refused_with_a_remedy(family: str, version: str) -> None:
    with pytest.raises(ManifestRefused) as refused:
        FULL.named(family, version)
    assert refused.value.remedy


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_canonical_json_reads_back_and_is_a_fixed_point(value: dict[str, Any]) -> None:
    try:
        data = canonical_json(value)
    except UnicodeEncodeError:
        return
    read = parse_json_object(data, max_bytes=10**6)
    assert canonical_json(read) == data


@given(st.binary(max_size=200))
def test_no_bytes_break_the_json_reader(data: bytes) -> None:
    with suppress(MessageRefused):
        canonical_json(parse_json_object(data, max_bytes=100))


@pytest.mark.parametrize(
    "text",
    ['{"a":NaN}', '{"a":1e999}', '{"a":1,"a":2}', "[1]", '{"a":"\\ud800"}', '{"\\ud800":1}', '{"a":' * 40 + "1" + "}" * 40],
)
def test_what_could_not_be_written_back_is_refused(text: str) -> None:
    with pytest.raises(MessageRefused):
        parse_json_object(text.encode(), max_bytes=1000)


def test_a_refusal_names_the_field() -> None:
    with pytest.raises(ManifestRefused, match=r"manifest\.inputs\[1\]\.shape"):
        Fields({"inputs": [{}, {"shape": "x"}]}, ManifestRefused, "manifest").objects("inputs")[1].integers("shape")


def test_truth_is_not_a_number() -> None:
    fields = Fields({"n": True, "f": float("inf"), "list": [1, False]}, MessageRefused)
    for read in (
        lambda: fields.integer("n"),
        lambda: fields.number("n"),
        lambda: fields.number("f"),
        lambda: fields.integers("list"),
    ):
        with pytest.raises(MessageRefused):
            read()


def test_inputs_keep_their_order_and_shape() -> None:
    inputs = (InputSpec("b", "int64", (1, 4)), InputSpec("a", "float32", (1,)))
    assert Manifest.from_bytes(manifest(inputs=inputs).to_bytes()).inputs == inputs
