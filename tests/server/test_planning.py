"""The delta graph's decisions, against brute force and by example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from server.services.planning import DELTA_ENTRY_BYTES, Bounds, Edge, Way, cheapest_way, deltas_to_build, unneeded_deltas
from server.tables import RetiredBecause

WIDE = Bounds(hops=3, held_bytes=10**9, rebuild_s=60.0)
NODES = "abcdef"


def delta(base: str, content: str, size_bytes: int, *, content_bytes: int = 1000, codec: str = "model") -> Edge:
    return Edge(base, content, size_bytes, content_bytes, base_bytes=content_bytes, codec=codec)


def full(content: str, size_bytes: int, *, content_bytes: int = 1000) -> Edge:
    return Edge(None, content, size_bytes, content_bytes)


def named(way: Way | None) -> str | None:
    """A way as the contents that it passes."""
    return "".join(edge.content for edge in way.edges) if way else None


@st.composite
def graphs(draw: st.DrawFn) -> list[Edge]:
    pairs = [(base, content) for base in [None, *NODES] for content in NODES if base != content]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=14))
    sizes = {node: draw(st.integers(1, 50)) * 10**6 for node in NODES}
    return [
        Edge(
            base,
            content,
            # Few different sizes, so that ties come up.
            draw(st.sampled_from([1, 500, 1000, 1500, 5000])),
            sizes[content],
            sizes[base] if base else 0,
            draw(st.sampled_from(["model", "zstd"])) if base else "full",
        )
        for base, content in chosen
    ]


BOUNDS = st.builds(
    Bounds, hops=st.integers(1, 4), held_bytes=st.integers(1, 100).map(lambda n: n * 10**6), rebuild_s=st.floats(0.1, 60.0)
)


def every_way(base: str | None, target: str, edges: Sequence[Edge], bounds: Bounds) -> Iterator[Way]:
    """All ways, by trying everything."""

    def further(here: str | None, taken: tuple[Edge, ...]) -> Iterator[Way]:
        if here == target:
            yield Way(taken)
            return
        if len(taken) == bounds.hops:
            return
        for edge in edges:
            if edge.base == here or (edge.base is None and not taken):
                yield from further(edge.content, (*taken, edge))

    for way in further(base, ()):
        held = max((edge.held_bytes for edge in way.edges), default=0)
        if held <= bounds.held_bytes and way.rebuild_s <= bounds.rebuild_s:
            yield way


@given(graphs(), st.sampled_from([None, *NODES]), st.sampled_from(NODES), BOUNDS)
def test_the_cheapest_way_is_the_cheapest_of_all(edges: list[Edge], base: str | None, target: str, bounds: Bounds) -> None:
    found = cheapest_way(base, target, edges, bounds)
    ways = list(every_way(base, target, edges, bounds))
    assert (found is None) == (not ways)
    if found is not None:
        assert found in ways
        assert (found.cost_bytes, len(found.edges)) == min((way.cost_bytes, len(way.edges)) for way in ways)


@given(graphs(), st.sampled_from(NODES), BOUNDS, st.randoms(use_true_random=False))
def test_the_order_of_the_edges_does_not_matter(edges: list[Edge], base: str, bounds: Bounds, rng: object) -> None:
    shuffled = list(edges)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert named(cheapest_way(base, "a", edges, bounds)) == named(cheapest_way(base, "a", shuffled, bounds))


def test_a_vehicle_that_is_there_needs_nothing() -> None:
    assert cheapest_way("a", "a", [], WIDE) == Way(())


def test_a_chain_is_taken_when_it_is_cheaper_than_the_leap_and_the_full_artifact() -> None:
    edges = [delta("a", "b", 900), delta("b", "c", 900), delta("a", "c", 5000), full("c", 9000)]
    assert named(cheapest_way("a", "c", edges, WIDE)) == "bc"
    # Entries in signed metadata are paid for, too: each delta's, and that of the version on the way.
    for size_bytes, way in ((1800 + 160 + 340, "c"), (1800 + 160 + 360, "bc")):
        leap = [replace(edge, size_bytes=size_bytes) if (edge.base, edge.content) == ("a", "c") else edge for edge in edges]
        assert named(cheapest_way("a", "c", leap, WIDE)) == way


def test_the_full_artifact_is_a_way_like_any_other() -> None:
    edges = [delta("a", "b", 5000), delta("b", "c", 5000), full("c", 9000)]
    assert cheapest_way("a", "c", edges, WIDE) == Way((full("c", 9000),))
    assert cheapest_way(None, "c", edges, WIDE) == Way((full("c", 9000),))
    assert cheapest_way("elsewhere", "c", edges, WIDE) == Way((full("c", 9000),))


def test_bounds_turn_a_chain_away() -> None:
    chain = [delta("a", "b", 10), delta("b", "c", 10, content_bytes=5_000_000), delta("c", "d", 10), full("d", 9000)]
    assert named(cheapest_way("a", "d", chain, WIDE)) == "bcd"
    assert cheapest_way("a", "d", chain, replace(WIDE, hops=2)) == Way((chain[3],))
    assert cheapest_way("a", "d", chain, replace(WIDE, held_bytes=9_999_999)) == Way((chain[3],))
    assert cheapest_way("a", "d", chain, replace(WIDE, rebuild_s=1.9)) == Way((chain[3],))


def test_a_dearer_way_with_hops_to_spare_is_not_forgotten() -> None:
    edges = [delta("a", "b", 1), delta("b", "c", 1), delta("a", "c", 9000), delta("c", "d", 1)]
    assert named(cheapest_way("a", "d", edges, replace(WIDE, hops=2))) == "cd"


def build(vehicles: dict[str, int], previous: str | None, *deltas: Edge, limit: int = 8, hops: int = 3) -> list[str]:
    bounds = replace(WIDE, hops=hops)
    return deltas_to_build(vehicles, previous, deltas, full_bytes=400_000, bounds=bounds, limit=limit)


def test_a_first_release_has_no_base() -> None:
    assert build({}, None) == []


def test_the_release_before_is_a_base_for_vehicles_to_come() -> None:
    assert build({}, "c") == ["c"]
    assert build({"c": 0}, "c", limit=0) == []


def test_most_vehicles_first_and_the_younger_of_two_that_are_equal() -> None:
    assert build({"c": 1, "b": 9, "a": 9}, "c") == ["c", "b", "a"]
    assert build({"c": 1, "b": 9, "a": 10}, "c", limit=2) == ["c", "a"]


def test_stragglers_come_by_the_chain_that_exists() -> None:
    chain = [delta("a", "b", 20_000), delta("b", "c", 20_000)]
    assert build({"c": 997, "a": 3}, "c", *chain) == ["c"], "three times 40 kB are less than a thousand entries"
    assert build({"c": 900, "a": 100}, "c", *chain) == ["c", "a"]
    assert build({"c": 997, "a": 3}, "c", *chain, hops=2) == ["c", "a"], "the chain and its last hop would be too long"
    assert build({"c": 997, "a": 3}, "c") == ["c", "a"], "without a chain it would be three full artifacts"


@given(
    st.dictionaries(st.sampled_from(NODES), st.integers(0, 10**6)),
    st.sampled_from(NODES),
    graphs(),
    st.integers(0, 8),
)
def test_bases_are_few_and_different_and_the_release_before_leads(
    vehicles: dict[str, int], previous: str, edges: list[Edge], limit: int
) -> None:
    chosen = build(vehicles, previous, *(edge for edge in edges if edge.base), limit=limit)
    assert len(set(chosen)) == len(chosen) <= limit
    assert chosen[:1] == [previous][:limit]
    assert set(chosen) <= {*vehicles, previous}


def test_what_nobody_needs_is_told_with_its_reason() -> None:
    edges = [
        delta("a", "b", 100),
        delta("b", "c", 100),
        delta("c", "d", 100),
        delta("b", "d", 9000),
        full("d", 400_000),
    ]
    # Somebody runs b, the release before is c, d is the newest.
    assert unneeded_deltas(edges, [("b", "d"), ("c", "d")], WIDE) == [
        (edges[0], RetiredBecause.UNUSED),
        (edges[3], RetiredBecause.DEARER),
    ]


@given(graphs(), st.lists(st.tuples(st.sampled_from([None, *NODES]), st.sampled_from(NODES)), max_size=4), BOUNDS)
def test_retiring_makes_no_way_dearer_and_leaves_nothing_to_retire(
    edges: list[Edge], wanted: list[tuple[str | None, str]], bounds: Bounds
) -> None:
    gone = {id(edge) for edge, _ in unneeded_deltas(edges, wanted, bounds)}
    kept = [edge for edge in edges if id(edge) not in gone]
    for base, target in wanted:
        before, after = (cheapest_way(base, target, these, bounds) for these in (edges, kept))
        assert (before and before.cost_bytes) == (after and after.cost_bytes)
    assert unneeded_deltas(kept, wanted, bounds) == []


def test_an_entry_s_price_is_about_what_signed_metadata_shows() -> None:
    import json

    from model_registry.contract.targets import DeltaTarget
    from model_registry.trust.image_repository import target_file

    target = DeltaTarget("road-signs", "a" * 64, "b" * 64)
    file = target_file(target, "c" * 64, 123_456)
    entry = len(json.dumps({target.path: file.to_dict()}, separators=(",", ":")))
    assert abs(entry - DELTA_ENTRY_BYTES) < 20
