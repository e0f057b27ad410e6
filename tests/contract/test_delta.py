"""Delta artifacts: every codec gives the new content back, and the model codec spends bytes on what changed only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model_registry.contract.codecs import changes, pools, sparse
from model_registry.contract.codecs.changes import encode_changes
from model_registry.contract.codecs.differences import FIRST_DIFFERENCES
from model_registry.contract.codecs.heads import ContentHead, naming_cost
from model_registry.contract.codecs.integers import IntegerView
from model_registry.contract.codecs.model import pack
from model_registry.contract.codecs.moves import NO_MOVES
from model_registry.contract.codecs.prediction import Prediction, predict, predictions
from model_registry.contract.codecs.scales import encode_scale, scale_candidates
from model_registry.contract.codecs.sections import Sink
from model_registry.contract.codecs.sparse import FIRST_BY_MOVES, encode_sparse
from model_registry.contract.codecs.tensor_coding import DRIFT, SAME, encode_tensor, moves_of, offsets_before, ways_from
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, DeltaHeader, apply_delta, read_delta_header
from model_registry.contract.entropy import COST_UNIT
from model_registry.contract.errors import ContentMismatch, LimitExceeded, UnsupportedArtifact, WrongBase
from model_registry.contract.full import encode_full
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.manifest import Lineage
from model_registry.contract.tensors import EncodedTensor, Encoding
from model_registry.deltas import counterfactuals, make_delta, make_deltas
from tests.contract import second_decoder, second_sparse
from tests.contract.contents import content, pairs, shifted, small_network, sparse_codebook, tensor


@given(pairs())
def test_every_codec_gives_the_new_content_back(pair: tuple[Content, Content]) -> None:
    base, new = pair
    for codec in Codec:
        delta = make_delta(base, new, codec)
        assert apply_delta(base, delta.data).data == new.data
        assert second_decoder.decode_delta(delta.data, base.data) == new.data


@given(pairs())
def test_every_way_of_coding_changes_gives_the_values_back(pair: tuple[Content, Content]) -> None:
    """The encoder keeps the cheapest way only; here all of them are decoded, by the second decoder too."""
    base, new = pair
    known = {t.name: t for t in base.tensors}
    with pytest.MonkeyPatch.context() as patch:
        for module in (sparse, second_decoder):
            patch.setattr(module, "FEW", 20)
        for fresh in (t for t in new.tensors if t.name in known):
            for number, sink in _every_way(known[fresh.name], fresh):
                data, single = _delta_of_one_tensor(base, new, fresh, number, sink)
                assert apply_delta(base, data).data == single.data
                assert second_decoder.decode_delta(data, base.data) == single.data


@given(st.data())
def test_sparse_changes_span_blocks_and_pools(data: st.DataObject) -> None:
    """With small blocks a tensor has several of them, and they fill several pools; the second decoder agrees."""
    side = data.draw(st.integers(1, 12))
    values = data.draw(hnp.arrays(np.uint8, (side, 9, 2), elements=st.sampled_from([0, 0, 0, 1, 2])))
    share = data.draw(st.sampled_from([0.02, 0.4, 0.97]))
    moved = np.random.default_rng(side).random(values.shape) < share
    base = content(*(tensor(name, Encoding.CODEBOOK, values, [0.0, 0.5, 1.0]) for name in "ab"))
    fresh = tensor("a", Encoding.CODEBOOK, np.where(moved, (values + 1) % 3, values).astype(np.uint8), [0.0, 0.5, 1.0])
    new = _with(base, fresh, EncodedTensor("b", fresh.encoding, fresh.values, fresh.scale))
    with pytest.MonkeyPatch.context() as patch:
        for module in (pools, sparse, second_sparse, second_decoder):
            patch.setattr(module, "SIZE", 50)
        for module in (sparse, second_decoder):
            patch.setattr(module, "FEW", 20)
        delta = make_delta(base, new, Codec.MODEL)
        assert apply_delta(base, delta.data).data == new.data
        assert second_decoder.decode_delta(delta.data, base.data) == new.data


def test_many_blocks_and_large_ones_stay_within_their_pools() -> None:
    """More blocks than a pool has, and a tensor whose last block is too small for contexts; the second decoder agrees."""
    rng = np.random.default_rng(4)
    old = [sparse_codebook(f"t{number}", (3, 2), seed=number) for number in range(pools.BLOCKS + 3)]
    old.append(sparse_codebook("large", (4, (pools.SIZE + 12) // 4), seed=9))
    fresh = [EncodedTensor(t.name, t.encoding, np.where(rng.random(t.shape) < 0.01, 0, t.values), t.scale) for t in old]
    base, new = content(*old), content(*fresh)
    delta = make_delta(base, new, Codec.MODEL)
    assert apply_delta(base, delta.data).data == new.data
    assert second_decoder.decode_delta(delta.data, base.data) == new.data


def test_a_tensor_is_predicted_once_however_many_blocks_it_has() -> None:
    values = np.random.default_rng(5).integers(-9, 9, (40, 20))
    steps = [tensor("t", Encoding.GRID8, values, np.full(40, step)) for step in (0.5, 0.25)]
    predicted = []

    def counted(*args: Any, **named: Any) -> Prediction | None:
        predicted.append(args)
        return predict(*args, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "SIZE", 30)
        patch.setattr(sparse, "predict", counted)
        data = _delta_of_one_tensor(content(steps[0]), content(steps[1]), steps[1], *_sparse_by_weight(*steps))[0]
        assert apply_delta(content(steps[0]), data).tensors[0].same_as(steps[1])
    assert len(predicted) == 1


def _sparse_by_weight(old: EncodedTensor, new: EncodedTensor) -> tuple[int, Sink]:
    prediction = predict(old, IntegerView(new.encoding, new.scale), new.shape, by_weight=True)
    assert prediction is not None
    return next(encode_sparse(prediction, new.values, NO_MOVES, by_weight=True))


def _every_way(old: EncodedTensor, new: EncodedTensor) -> Iterator[tuple[int, Sink]]:
    """Sparse or not."""
    yield from ways_from(old, new)
    view, moves = IntegerView(new.encoding, new.scale), moves_of(old, new.offsets, new.shape)
    for by_weight, prediction in predictions(old, view, new.shape):
        yield from encode_changes(prediction, new.values, by_weight=by_weight)
        yield from encode_sparse(prediction, new.values, moves, by_weight=by_weight)


def _delta_of_one_tensor(base: Content, new: Content, fresh: EncodedTensor, number: int, sink: Sink) -> tuple[bytes, Content]:
    single = Content(new.manifest, new.graph, (fresh,))
    scale_number, packed = encode_scale(fresh.scale)
    known = offsets_before({t.name: t for t in base.tensors}.get(fresh.name), fresh.offsets.shape)
    offsets = [encode_scale(after, before) for after, before in zip(fresh.offsets, known, strict=True)]
    of_offsets = [part for _, part in offsets]
    for part in (*of_offsets, sink) if number >= FIRST_BY_MOVES else (sink, *of_offsets):
        packed.extend(part)
    coders = bytes([scale_number, number, *(coder for coder, _ in offsets)])
    header = DeltaHeader(Codec.MODEL, base.sha256, single.sha256, len(single.data))
    return header.to_bytes() + pack(base, ContentHead.of(single), [coders], packed), single


@given(st.data())
def test_floats_that_drifted_come_back_bit_for_bit(data: st.DataObject) -> None:
    """Anything finite: subnormals, both zeros, sudden jumps, rows and columns that stay; the second decoder agrees."""
    encoding = data.draw(st.sampled_from([Encoding.FLOAT32, Encoding.FLOAT16]))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=5))
    finite = st.floats(width=16 if encoding is Encoding.FLOAT16 else 32, allow_nan=False, allow_infinity=False)
    numbers = finite | st.sampled_from([0.0, -0.0, 1.0])
    old = data.draw(hnp.arrays(encoding.dtype, shape, elements=numbers))
    steps = data.draw(hnp.arrays(np.float64, shape, elements=st.floats(-1, 1) | st.just(0.0)))
    size = data.draw(st.sampled_from([1.0, 1e-3, 1e-8, 1e-40, 100.0]))
    limit = float(np.finfo(encoding.dtype).max)
    new = np.clip(old + size * steps, -limit, limit).astype(encoding.dtype)
    base, fresh = content(tensor("t", encoding, old)), tensor("t", encoding, new)
    found = [(number, sink) for number, sink in ways_from(base.tensors[0], fresh) if number == DRIFT]
    for number, sink in found:
        delta, single = _delta_of_one_tensor(base, content(fresh), fresh, number, sink)
        assert apply_delta(base, delta).data == single.data
        assert second_decoder.decode_delta(delta, base.data) == single.data
    assert found or not fresh.size or np.abs(new.astype(np.float64) - old).max() > 0


def test_the_header_names_base_and_content() -> None:
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    header = read_delta_header(make_delta(base, new, Codec.ZSTD).data)
    assert header == DeltaHeader(Codec.ZSTD, base.sha256, new.sha256, len(new.data))


def test_make_delta_takes_the_smallest() -> None:
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    sizes = {delta.codec: len(delta.data) for delta in make_deltas(base, new, list(Codec))}
    assert set(sizes) == set(Codec)
    assert len(make_delta(base, new).data) == min(sizes.values())


def _with(base: Content, *fresh: EncodedTensor) -> Content:
    by_name = {t.name: t for t in fresh}
    tensors = tuple(by_name.pop(t.name, t) for t in base.tensors)
    return Content(replace(base.manifest, version="1.0.1"), base.graph, (*tensors, *by_name.values()))


def _size(base: Content, new: Content) -> int:
    return len(make_delta(base, new, Codec.MODEL).data)


LAYER = sparse_codebook("layer.weight", (128, 64, 3, 3), seed=7)
BASE = content(LAYER, tensor("layer.bias", Encoding.GRID8, np.arange(128) - 64, [0.5]))
NOTHING = _size(BASE, _with(BASE))


def test_a_new_name_alone_costs_the_header_and_a_few_bytes() -> None:
    assert NOTHING < 77 + 60


def test_changed_indices_cost_about_their_information() -> None:
    rng = np.random.default_rng(8)
    values = LAYER.values.ravel().copy()
    places = rng.choice(values.size, 300, replace=False)
    values[places] = rng.integers(0, 32, 300)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, values.reshape(LAYER.shape), LAYER.scale))
    # 300 of 73,728 places: 9.4 bits each; 32 entries: 5 bits each.
    assert _size(BASE, new) - NOTHING < 300 * (9.4 + 5) / 8 * 1.15


def test_changes_in_one_row_do_not_pay_for_the_others() -> None:
    rng = np.random.default_rng(9)
    values = LAYER.values.copy()
    values[17] = rng.integers(0, 32, values.shape[1:])
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, values, LAYER.scale))
    assert _size(BASE, new) - NOTHING < values[17].size * 5 / 8 + 60


def test_moved_centroids_cost_the_codebook_only() -> None:
    moved = (LAYER.scale * np.float32(1.01)).astype(np.float16).astype(np.float32)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, LAYER.values, moved))
    assert _size(BASE, new) - NOTHING < 2 * LAYER.scale.size


def test_centroids_moved_in_coarse_steps_cost_the_steps_only() -> None:
    steps = np.random.default_rng(16).integers(-3, 4, LAYER.scale.size).astype(np.float32)
    moved = np.where(LAYER.scale == 0, 0, LAYER.scale + steps / 128).astype(np.float16).astype(np.float32)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, LAYER.values, moved))
    assert _size(BASE, new) - NOTHING < 0.7 * LAYER.scale.size + 12


def test_an_entry_that_is_not_a_number_is_zero_on_every_machine() -> None:
    """How the bits of a NaN change when it is rounded to float16 is left to the machine."""
    indices, bits = np.zeros(3, np.uint8), np.array([0x7FC0DEAD, 0x3F800000], np.uint32)
    base = content(tensor("t", Encoding.CODEBOOK, indices, bits.view(np.float32)))
    zero = content(tensor("t", Encoding.CODEBOOK, indices, np.array([0, 1], np.float32)))
    new = tensor("t", Encoding.CODEBOOK, indices, np.array([0.5, 1], np.float32))
    coded = [dict(scale_candidates(new.scale, from_.tensors[0].scale))[32] for from_ in (base, zero)]
    assert coded[0].pack(b"", dictionary=b"") == coded[1].pack(b"", dictionary=b"")


@given(st.data())
def test_every_way_of_coding_a_scale_gives_it_back(data: st.DataObject) -> None:
    """The encoder keeps the cheapest only; here all are decoded, by the second decoder too."""
    count = data.draw(st.integers(1, 9))
    numbers = st.floats(width=32) | st.floats(width=16, allow_nan=False) | st.sampled_from([0.0, -0.0, 0.5])
    old, new = (data.draw(hnp.arrays(np.float32, count, elements=numbers)) for _ in range(2))
    indices = np.zeros(3, np.uint8)
    base, fresh = content(tensor("t", Encoding.CODEBOOK, indices, old)), tensor("t", Encoding.CODEBOOK, indices, new)
    for number, sink in scale_candidates(fresh.scale, base.tensors[0].scale):
        single = content(fresh)
        header = DeltaHeader(Codec.MODEL, base.sha256, single.sha256, len(single.data))
        delta = header.to_bytes() + pack(base, ContentHead.of(single), [bytes([number, SAME])], sink)
        assert apply_delta(base, delta).data == single.data
        assert second_decoder.decode_delta(delta, base.data) == single.data


def test_a_lineage_that_names_its_base_costs_next_to_nothing() -> None:
    base = small_network()
    nameless, named = (
        content(*base.tensors, version="1.1.0", lineage=Lineage(base_sha256=sha256)) for sha256 in (None, base.sha256)
    )
    delta = make_delta(base, named, Codec.MODEL).data
    assert len(delta) - len(make_delta(base, nameless, Codec.MODEL).data) < 16
    assert second_decoder.decode_delta(delta, base.data) == apply_delta(base, delta).data == named.data


def test_centroids_that_pass_each_other_or_meet_cost_the_codebook_and_their_new_order() -> None:
    moved = (LAYER.scale + np.random.default_rng(15).standard_normal(LAYER.scale.size) * 0.1).astype(np.float16)
    moved[3], moved[0] = moved[4], 0
    fresh, indices = np.unique(moved.astype(np.float32), return_inverse=True)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, indices[LAYER.values].astype(np.uint8), fresh))
    assert (np.argsort(moved) != np.argsort(LAYER.scale)).any()
    assert _size(BASE, new) - NOTHING < 3 * LAYER.scale.size


def test_pruned_weights_cost_little_more_than_where_they_are() -> None:
    rng = np.random.default_rng(10)
    pruned = np.where((rng.random(LAYER.shape) < 0.3) & (LAYER.values > 0), 0, LAYER.values).astype(np.uint8)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, pruned, LAYER.scale))
    nonzero = int((LAYER.values > 0).sum())
    assert _size(BASE, new) - NOTHING < nonzero * 0.8813 / 8 * 1.1


def test_a_head_with_more_rows_costs_the_new_rows_only() -> None:
    head = sparse_codebook("head.weight", (20, 512), seed=11)
    more = sparse_codebook("head.weight", (22, 512), seed=12)
    grown = np.concatenate([head.values, more.values[20:]])
    base = content(head)
    new = _with(base, EncodedTensor(head.name, head.encoding, grown, head.scale))
    assert _size(base, new) - NOTHING < 2 * 512 * 5 / 8
    back = _with(new, head)
    assert _size(new, back) - NOTHING < 20


def test_a_finer_codebook_is_predicted_by_weight() -> None:
    finer = np.unique(np.concatenate([LAYER.scale, LAYER.scale + np.float32(0.01)])).astype(np.float32)
    indices = np.searchsorted(finer, LAYER.dequantize()).astype(np.uint8)
    new = _with(BASE, EncodedTensor(LAYER.name, LAYER.encoding, indices, finer))
    assert _size(BASE, new) - NOTHING < 4 * finer.size + 60


@pytest.mark.parametrize("encoding", [Encoding.FLOAT32, Encoding.FLOAT16])
def test_floats_that_moved_a_little_cost_less_than_full_and_less_than_general_differs(encoding: Encoding) -> None:
    rng = np.random.default_rng(13)
    old = rng.standard_normal((100, 200)).astype(np.float32)
    base = content(tensor("w", encoding, old))
    new = _with(base, tensor("w", encoding, old + 1e-3 * rng.standard_normal(old.shape).astype(np.float32)))
    sizes = {delta.codec: len(delta.data) for delta in make_deltas(base, new, list(Codec))}
    assert sizes[Codec.MODEL] < 0.8 * len(encode_full(new))
    assert sizes[Codec.MODEL] < 0.8 * min(sizes[Codec.BSDIFF4], sizes[Codec.ZSTD])


def test_pruned_rows_that_moved_in_one_direction_cost_little_more_than_their_open_bits() -> None:
    """As training leaves them: one size for all steps, a direction for each row, zeros of either sign under the mask."""
    rng = np.random.default_rng(14)
    mask = rng.random((64, 300)) < 0.3
    old = np.where(mask, 0.05 * rng.standard_normal(mask.shape), 0).astype(np.float32)
    moves = 1e-4 * (rng.standard_normal((64, 1)) + 0.2 * rng.standard_normal(mask.shape))
    new = ((old + moves).astype(np.float32) * mask).astype(np.float32)
    assert np.signbit(new[~mask]).any()
    base = content(tensor("w", Encoding.FLOAT32, old))
    cost = _size(base, _with(base, tensor("w", Encoding.FLOAT32, new))) - NOTHING
    spread_bits = np.log2(0.2e-4 * np.sqrt(2 * np.pi * np.e) / np.spacing(np.abs(new[mask])))
    assert cost < 1.02 * spread_bits.sum() / 8 + 0.25 * (~mask).sum() / 8 + 64 * 2


def test_an_unrelated_content_costs_no_more_than_the_full_artifact_and_its_longer_header() -> None:
    base, new = small_network(), small_network(version="2.0.0", seed=99)
    assert _size(base, new) <= len(encode_full(new)) + 33 + len(new.tensors)


def test_a_base_with_tensors_named_alike_but_unlike_is_no_obstacle() -> None:
    base = content(tensor("w", Encoding.FLOAT32, np.zeros((2, 2))), tensor("v", Encoding.GRID8, [1], [1.0]))
    new = content(tensor("w", Encoding.GRID16, [1, 2, 3], [1.0]), tensor("v", Encoding.FLOAT16, np.ones((1, 1, 1))))
    assert apply_delta(base, make_delta(base, new, Codec.MODEL).data).data == new.data


@pytest.mark.parametrize("codec", list(Codec))
def test_the_wrong_base_is_refused_with_a_remedy(codec: Codec) -> None:
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    data = make_delta(base, new, codec).data
    with pytest.raises(WrongBase) as refused:
        apply_delta(new, data)
    assert "full artifact" in refused.value.remedy


@pytest.mark.parametrize("codec", list(Codec))
def test_a_content_above_the_limit_is_refused_before_decoding(codec: Codec) -> None:
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    with pytest.raises(LimitExceeded):
        apply_delta(base, make_delta(base, new, codec).data, replace(DEFAULT_LIMITS, max_content_bytes=len(new.data) - 1))


@pytest.mark.parametrize("codec", list(Codec))
def test_a_forged_content_digest_is_found(codec: Codec) -> None:
    base, new = small_network(), small_network(version="1.0.1", seed=2)
    data = bytearray(make_delta(base, new, codec).data)
    data[40] ^= 1
    with pytest.raises(ContentMismatch):
        apply_delta(base, bytes(data))


def test_an_unknown_codec_says_to_update() -> None:
    data = bytearray(make_delta(small_network(), small_network(seed=2), Codec.ZSTD).data)
    data[4] = 9
    with pytest.raises(UnsupportedArtifact, match="update this program"):
        read_delta_header(bytes(data))


@pytest.mark.parametrize("encoding", [Encoding.CODEBOOK, Encoding.GRID8, Encoding.GRID16])
def test_pruning_what_is_small_costs_a_fraction_of_telling_which_weights_go(encoding: Encoding) -> None:
    rng = np.random.default_rng(6)
    if encoding is Encoding.CODEBOOK:
        entries = np.append(rng.permutation(np.geomspace(0.001, 1, 127)), 0)
        old = tensor("w", encoding, rng.integers(0, 128, (64, 32, 3, 3)), entries)
        pruned = np.where(entries[old.values] < 0.01, 127, old.values)
    else:
        old = tensor("w", encoding, rng.integers(-100, 101, (64, 32, 3, 3)), [0.01])
        pruned = np.where(np.abs(old.values) < 20, 0, old.values)
    base, new = content(old), content(tensor("w", encoding, pruned, old.scale))
    delta = make_delta(base, new, Codec.MODEL).data
    bare = make_delta(base, replace(base, manifest=new.manifest), Codec.MODEL).data
    # Where the threshold falls between two magnitudes, one of them is told weight by weight.
    assert len(delta) - len(bare) < 0.1 * np.count_nonzero(pruned != old.values)
    assert apply_delta(base, delta).data == new.data
    assert second_decoder.decode_delta(delta, base.data) == new.data


@pytest.mark.parametrize("encoding", [Encoding.CODEBOOK, Encoding.GRID8, Encoding.GRID16])
def test_rows_that_go_one_way_tell_it_once(encoding: Encoding) -> None:
    """The same weights change; which way costs a bit for each of them, or for each row."""
    rng = np.random.default_rng(17)
    entries = np.linspace(-1, 1, 128) if encoding is Encoding.CODEBOOK else [0.01]
    old = tensor("w", encoding, rng.integers(20, 100, (64, 16, 3, 3)), entries)
    changes = rng.random(old.shape) < 0.1
    costs = {}
    for name, shape in (("weights", old.shape), ("rows", (64, 1, 1, 1))):
        steps = changes * rng.choice([-1, 1], shape)
        fresh = tensor("w", encoding, old.values + steps, old.scale)
        costs[name] = _size(content(old), content(fresh))
        for number, sink in _every_way(old, fresh):
            data, single = _delta_of_one_tensor(content(old), content(fresh), fresh, number, sink)
            assert apply_delta(content(old), data).data == single.data
            assert number < 62 or second_decoder.decode_delta(data, content(old).data) == single.data
    assert costs["weights"] - costs["rows"] > 0.8 * (changes.sum() - 64) / 8


@given(st.data())
def test_rows_whose_offsets_moved_come_back(data: st.DataObject) -> None:
    """Not by a finite number, by next to nothing, not at all, and rows that are new; the second decoder agrees."""
    rows, known = data.draw(st.integers(5, 9)), data.draw(st.integers(4, 9))
    moves = st.floats(width=32) | st.integers(-99, 99).map(lambda level: level * 2.0**-12)
    offsets = [data.draw(hnp.arrays(np.float32, (1, count), elements=moves)) for count in (known, rows)]
    values = np.random.default_rng(rows).integers(-3, 4, (9, 6))
    changed = np.where(data.draw(hnp.arrays(np.bool_, (9, 6))), values, 0)
    old, fresh = (
        shifted(tensor("t", Encoding.GRID8, own[: len(offset[0])], [0.5]), offset)
        for own, offset in zip((values, changed), offsets, strict=True)
    )
    base, numbers = content(old), set[int]()
    with pytest.MonkeyPatch.context() as patch:
        for module in (sparse, second_decoder):
            patch.setattr(module, "FEW", 20)
        for number, sink in ways_from(old, fresh):
            delta, single = _delta_of_one_tensor(base, content(fresh), fresh, number, sink)
            assert apply_delta(base, delta).data == single.data
            assert second_decoder.decode_delta(delta, base.data) == single.data
            numbers.add(number)
    assert (sparse.FIRST_BY_MOVES in numbers) == moves_of(old, fresh.offsets, fresh.shape).any()


def test_biases_that_all_change_cost_their_differences() -> None:
    rng = np.random.default_rng(12)
    steps = rng.geometric(0.4, 256) * rng.choice([-1, 1], 256)
    old = tensor("b", Encoding.GRID8, rng.integers(-90, 91, 256), [0.5])
    new = tensor("b", Encoding.GRID8, old.values + steps, [0.5])
    sink = Sink()
    assert encode_tensor(old, new, sink)[1] == FIRST_DIFFERENCES
    # 1 bit for the way and 2.4 for how far.
    assert sink.cost / COST_UNIT < 256 * 3.4 * 1.1


def test_a_coder_has_to_make_up_for_its_name() -> None:
    """Of many small tensors none takes a coder that saves less than telling its number costs."""
    rng, margins = np.random.default_rng(13), list[float]()
    for size in range(6, 60):
        old = tensor("b", Encoding.GRID8, rng.integers(-90, 91, size), [0.5])
        new = tensor("b", Encoding.GRID8, old.values + rng.integers(-2, 3, size), [0.5])
        costs = {number: sink.cost / COST_UNIT for number, sink in ways_from(old, new)}
        unusual = min(cost for number, cost in costs.items() if naming_cost(number))
        margins.append(min(cost for number, cost in costs.items() if not naming_cost(number)) - unusual)
        assert bool(naming_cost(encode_tensor(old, new, Sink())[1])) == (margins[-1] > 12)
    assert min(margins) < 12 < max(margins)


def test_every_change_coder_has_its_own_number() -> None:
    assert [coder.number for coder in changes.CODERS] == list(range(32, 44))
    assert [coder.number for coder in sparse.CODERS] == [48, 49, 50, 52, 53, 54, 55, 56, 58, 59, *range(60, 78)]


def test_counterfactuals_tell_what_other_ways_cost() -> None:
    base = content(tensor("w", Encoding.FLOAT32, np.random.default_rng(1).standard_normal((50, 60))))
    new = _with(base, tensor("w", Encoding.FLOAT32, base.tensors[0].values + np.float32(1e-6)))
    with_base, without = counterfactuals(base, new), counterfactuals(None, new)
    assert with_base.float32_full_bytes == 4 * 3000
    assert with_base.compressed_full_bytes == len(encode_full(new))
    assert without.bsdiff4_float16_bytes == 2 * 3000
    assert with_base.bsdiff4_float16_bytes < 1000


def test_views_are_reversible_for_all_integers() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    view = IntegerView(Encoding.GRID8, np.ones(1, np.float32))
    assert view.values(view.integers(every)).tolist() == every.tolist()
    assert np.diff(view.integers(every).astype(int)).min() == 1
