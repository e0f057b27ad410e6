"""Entropy coding: exact on every machine, compact, and safe to read from anybody."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.codecs.numbers import read_numbers, write_numbers
from model_registry.contract.entropy import (
    MAX_TABLES,
    TOTAL,
    AnsCoder,
    Categorical,
    CoderRefusals,
    SymbolReader,
    SymbolWriter,
    Table,
    Uniform,
    token_weights,
    unzigzag,
    zigzag,
)
from model_registry.contract.errors import MalformedArtifact
from tests.contract.second_stream import Symbols, frequencies


@given(st.lists(st.integers(0, 2**24 - 1), min_size=2, max_size=300))
def test_frequencies_are_integers_that_sum_to_a_power_of_two(weights: list[int]) -> None:
    found = Table.from_weights(np.array(weights, np.int64)).frequencies
    assert found.sum() == TOTAL
    assert found.min() >= 1
    assert [0, *np.cumsum(found)] == frequencies(weights)


def test_the_largest_table_does_not_overflow() -> None:
    found = Table.from_weights(np.full(4096, token_weights(3)[-1])).frequencies
    assert (found == TOTAL // 4096).all()


@given(st.integers(2, 4096), st.integers(0, 2**32 - 1))
def test_the_coder_uses_exactly_our_frequencies(alphabet: int, seed: int) -> None:
    """An integer-only decoder gives the same symbols, so the coder's own model building rounds nothing."""
    rng = np.random.default_rng(seed)
    symbols = rng.integers(0, alphabet, 200) ** 2 // alphabet
    writer = SymbolWriter()
    writer.partition(symbols, alphabet)
    assert Symbols(writer.finish(), laws=True).partition(200, alphabet) == symbols.tolist()


def test_partitions_plain_bits_and_numbers_come_back_in_order() -> None:
    rng = np.random.default_rng(5)
    bits, small, large = rng.integers(0, 2**13, 50), rng.integers(0, 3, 500), rng.integers(0, 2**32, 100)
    writer = SymbolWriter()
    writer.bits(bits, 13)
    writer.partition(small, 3)
    write_numbers(writer, large)
    writer.partition(small, 3)
    reader = SymbolReader(writer.finish())
    assert reader.bits(50, 13).tolist() == bits.tolist()
    assert reader.partition(500, 3, np.uint8).tolist() == small.tolist()
    assert read_numbers(reader, 100).tolist() == large.tolist()
    assert reader.partition(500, 3, np.uint8).tolist() == small.tolist()
    reader.end()


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(-1, 3)), max_size=60))
def test_numbers_come_back_by_context_and_unlisted_ones_are_zero(pairs: list[tuple[int, int]]) -> None:
    numbers, contexts = np.array(pairs, np.int64).reshape(-1, 2).T
    listed = np.where(contexts >= 0, numbers, 0)
    writer = SymbolWriter()
    write_numbers(writer, listed, contexts, 4)
    data = writer.finish()
    assert read_numbers(SymbolReader(data), numbers.size, contexts, 4).tolist() == listed.tolist()
    assert Symbols(data, laws=True).numbers(numbers.size, contexts.tolist()) == listed.tolist()


def test_an_order_zero_stream_is_within_a_percent_of_the_entropy() -> None:
    rng = np.random.default_rng(3)
    symbols = np.clip(rng.laplace(128, 9, 200_000), 0, 255).astype(np.int64)
    share = np.bincount(symbols) / symbols.size
    entropy_bytes = -(share[share > 0] * np.log2(share[share > 0])).sum() * symbols.size / 8
    writer = SymbolWriter()
    writer.partition(symbols, 256)
    size = len(writer.finish())
    assert size < 1.01 * entropy_bytes
    assert abs(writer.cost / 65536 / 8 - size) < 8


def test_partitions_with_the_same_statistics_share_one_table() -> None:
    rng = np.random.default_rng(4)
    one, many = SymbolWriter(), SymbolWriter()
    draws = [np.clip(rng.laplace(128, 20, 300), 0, 255).astype(np.int64) for _ in range(20)]
    for draw in draws:
        many.partition(draw, 256)
    one.partition(np.concatenate(draws), 256)
    assert len(many.finish()) < len(one.finish()) + 40


@given(st.lists(st.integers(0, 2**24 - 1), min_size=2, max_size=300), st.integers(0, 2**32 - 1))
def test_a_table_says_the_same_whichever_way_the_coder_searches_it(weights: list[int], seed: int) -> None:
    frequencies = (Table.from_weights(np.array(weights)).frequencies - 1).astype(np.float32)
    halving, stepping = (Categorical(frequencies, perfect=False, lazy=lazy) for lazy in (False, True))
    symbols = np.random.default_rng(seed).integers(0, len(weights), 200).astype(np.int32)
    coder = AnsCoder()
    coder.encode_reverse(symbols, halving)
    assert coder.decode(stepping, symbols.size).tolist() == symbols.tolist()
    assert coder.is_empty()


def test_more_different_partitions_than_tables_still_round_trip() -> None:
    rng = np.random.default_rng(6)
    draws = [np.full(2000, i) ^ rng.integers(0, 2, 2000) for i in range(2 * MAX_TABLES)]
    writer = SymbolWriter()
    for draw in draws:
        writer.partition(draw, 256)
    reader = SymbolReader(writer.finish())
    for draw in draws:
        assert reader.partition(2000, 256, np.uint8).tolist() == draw.tolist()
    reader.end()


@given(st.lists(st.integers(-(2**40), 2**40)))
def test_zigzag_reverses(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert unzigzag(zigzag(array)).tolist() == values
    assert (zigzag(array) >= 0).all()


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\1\2\3", b"\7\7\7\7\0\0\0\0"])
def test_a_stream_that_no_encoder_makes_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedArtifact):
        SymbolReader(data)


@given(st.binary(max_size=200), st.integers(2, 300), st.integers(0, 1000))
def test_any_bytes_decode_to_something_bounded_or_are_refused(data: bytes, alphabet: int, count: int) -> None:
    try:
        reader = SymbolReader(data)
        for _ in range(3):
            symbols = reader.partition(count, alphabet, np.uint16)
            assert symbols.size == count
            assert symbols.max(initial=0) < alphabet
        read_numbers(reader, count)
        reader.end()
    except MalformedArtifact:
        pass


def test_a_panic_of_the_coder_is_a_refusal() -> None:
    """The coder is Rust: its panics are no Exceptions and would pass every handler."""
    with pytest.raises(MalformedArtifact), CoderRefusals():
        Uniform(1)


def test_other_failures_keep_their_kind() -> None:
    with pytest.raises(KeyboardInterrupt), CoderRefusals():
        raise KeyboardInterrupt


def test_symbols_left_over_are_refused() -> None:
    writer = SymbolWriter()
    writer.bits(np.arange(100), 8)
    reader = SymbolReader(writer.finish())
    reader.bits(99, 8)
    with pytest.raises(MalformedArtifact, match="does not end"):
        reader.end()
