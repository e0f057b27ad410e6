"""A manifest's numbers and digests travel apart from its words, and come back to the byte."""

from __future__ import annotations

from dataclasses import replace
from decimal import localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.canonical import canonical_json
from model_registry.contract.codecs.literals import MAX_LITERALS, Literals, Number, Template
from model_registry.contract.codecs.numbers import write_numbers
from model_registry.contract.codecs.sections import Sink, Source
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec
from model_registry.contract.entropy import SymbolReader, SymbolWriter, zigzag
from model_registry.contract.errors import LimitExceeded, MalformedArtifact
from model_registry.contract.manifest import GoldenVector, Lineage
from model_registry.deltas import make_delta
from tests.contract import second_decoder
from tests.contract.contents import content
from tests.contract.second_stream import Bytes, Symbols

DIGEST = bytes(range(32))
MAX_BYTES = 1 << 20

DIGITS = st.binary(min_size=1, max_size=40).map(bytes.hex)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | DIGITS
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text() | DIGITS, inner), max_leaves=30)


def told(base: Any, new: Any) -> tuple[bytes, Sink]:
    """The template and what is told of its literals, both as JSON."""
    sink, template = Sink(), Template.of(canonical_json(new))
    Literals(Template.of(canonical_json(base)), DIGEST).write(sink, template)
    return template.text, sink


def heard(base: Any, text: bytes, sink: Sink, *, max_bytes: int = MAX_BYTES) -> bytes:
    source = Source(bytes(sink.blob), SymbolReader(sink.symbols.finish()))
    found = Literals(Template.of(canonical_json(base)), DIGEST).read(source, text, max_bytes=max_bytes)
    source.end()
    return found


@given(VALUES, VALUES)
def test_any_json_comes_back_whatever_the_base_has(base: Any, new: Any) -> None:
    text, sink = told(base, new)
    assert heard(base, text, sink) == canonical_json(new)
    blob, symbols = Bytes(bytes(sink.blob)), Symbols(sink.symbols.finish(), laws=True)
    assert second_decoder.filled(text, second_decoder.template(canonical_json(base)), DIGEST, blob, symbols) == canonical_json(
        new
    )


@given(VALUES)
def test_both_decoders_take_a_text_apart_alike(value: Any) -> None:
    template = Template.of(canonical_json(value))
    text, literals = second_decoder.template(canonical_json(value))
    assert text == template.text
    assert [(x.mantissa, x.exponent) if isinstance(x, Number) else x for x in template.literals] == literals


def test_what_stays_the_same_is_told_in_next_to_nothing() -> None:
    value = {"a": [1, 2.5, -3e-07], "digests": ["00ff" * 16] * 20, "label": "12.5"}
    _, sink = told(value, value)
    assert not sink.blob
    assert sink.cost / 65536 < 40


def test_the_digest_of_the_base_is_told_by_name() -> None:
    text, sink = told({"base": None}, {"base": DIGEST.hex()})
    assert not sink.blob
    assert heard({"base": None}, text, sink) == canonical_json({"base": DIGEST.hex()})


def test_a_field_more_hides_the_literal_behind_it_and_no_other() -> None:
    base = {"digests": ["aabbcc", "ddeeff"], "z": "0102030405"}
    _, sink = told(base, {"added": 5, "digests": ["aabbcc", "ddeeff"], "z": "0102030405"})
    assert bytes(sink.blob) == bytes.fromhex("aabbcc")


@pytest.mark.parametrize(
    "token",
    [
        b"-0.0",
        b"1e+300",
        b"0.1234567890123",
        b"9007199254740993",
        b"-5",
        b'"AABBCC"',
        b'"abc"',
        b'"1.5"',
        b"1e400",
        b'"a\\"b"',
        b"9" * 5000,
    ],
    ids=lambda token: token[:20].decode(),
)
def test_what_would_not_come_back_stays_in_the_text(token: bytes) -> None:
    """Also what is no canonical JSON; signs, exponents and quotes are not lost."""
    sink, template = Sink(), Template.of(b'{"x":' + token + b"}")
    Literals(Template(b"", ()), DIGEST).write(sink, template)
    assert heard({}, template.text, sink) == b'{"x":' + token + b"}"


@pytest.mark.parametrize(("old", "new"), [(1.5e300, 2.5e-300), (-1.5e300, 7), (3.25, 1e-300), (5e-324, 1.7e308)])
def test_numbers_of_quite_another_size_come_back(old: float, new: float) -> None:
    text, sink = told({"x": old}, {"x": new})
    assert heard({"x": old}, text, sink) == canonical_json({"x": new})


def test_the_precision_that_somebody_set_for_decimals_changes_nothing() -> None:
    text = canonical_json({"x": 0.12345678, "y": 123456.75})
    with localcontext(prec=3):
        assert Template.of(text) == Template.of(text.replace(b"z", b""))
        found = Template.of(text)
    assert found == Template.of(text)
    assert len(found.literals) == 2


def test_more_literals_than_may_be_stay_in_the_text_and_are_refused_from_others() -> None:
    value = list(range(MAX_LITERALS + 50))
    text, sink = told([], value)
    assert heard([], text, sink) == canonical_json(value)
    with pytest.raises(LimitExceeded, match="literals"):
        heard([], b"\1" * (MAX_LITERALS + 1), Sink())


def test_a_manifest_above_its_limit_is_refused() -> None:
    text, sink = told({}, ["ab" * 255] * 100)
    with pytest.raises(LimitExceeded, match="manifest"):
        heard({}, text, sink, max_bytes=50_000)


def _forged(hows: list[int], exponents: list[int], moves: list[int], contexts: list[int]) -> Sink:
    sink = Sink()
    sink.symbols.partition(np.array(hows, np.int64), 3)
    write_numbers(sink.symbols, zigzag(np.array(exponents, np.int64)))
    write_numbers(sink.symbols, zigzag(np.array(moves, np.int64)), np.array(contexts, np.uint8), 4)
    return sink


@pytest.mark.parametrize(
    ("text", "sink"),
    [
        (b"\2", _forged([], [400], [5], [2])),
        (b"\2", _forged([], [-(2**30)], [5], [2])),
        (b"\3\x20", _forged([0], [], [], [])),
        (b"\3\x05", _forged([1], [], [], [])),
        (b"\3\x05", _forged([2], [], [], [])),
    ],
    ids=["beyond a double", "beyond all exponents", "of nothing", "another length", "bytes that are not there"],
)
def test_literals_that_cannot_be_are_refused(text: bytes, sink: Sink) -> None:
    with pytest.raises(MalformedArtifact):
        heard({}, text, sink)


def _released(number: int) -> Content:
    """A release like those that an update makes: another source, other golden values."""
    vectors = tuple(
        GoldenVector(seed, (3, 7, 50), (1.25 + number / 100, 0.5, -0.75), 0.1 + number / 100, 1.5, 0.01) for seed in (1, 2)
    )
    lineage = Lineage(f"{number:02x}" * 32, None, {"price": 1e-07, "lost": 0.04 + number / 1000})
    return replace(content(version="1.0.0"), manifest=replace(content().manifest, golden=vectors, lineage=lineage))


def test_a_release_costs_its_digest_and_little_else() -> None:
    base = _released(1)
    new = _released(2)
    new = replace(new, manifest=replace(new.manifest, lineage=replace(new.manifest.lineage, base_sha256=base.sha256)))
    # A header of 77 bytes with two digests, the digest of the source, and what changes.
    assert len(make_delta(base, new, Codec.MODEL).data) < 77 + 32 + 60


def test_laws_are_named_where_a_table_would_cost_more_than_it_tells() -> None:
    rng = np.random.default_rng(3)
    few = np.rint(rng.laplace(128, 1.5, 40)).astype(np.int64)
    lawful, other = SymbolWriter(), SymbolWriter()
    lawful.partition(few, 256)
    # The same symbols in an alphabet that has no laws.
    other.partition(few, 255)
    assert lawful.cost < 0.8 * other.cost
    assert SymbolReader(lawful.finish()).partition(40, 256, np.uint8).tolist() == few.tolist()
