"""The delta graph's drawing: figures in, positions out."""

from __future__ import annotations

from itertools import pairwise

from server.dashboard.spans import MOST_RELEASES, NAME_CHARS, Span, SpanChart, span_chart
from server.services.graph import Graph, GraphEdge, Journey, Node


def node(version: str, vehicles: int = 0) -> Node:
    return Node(version, "a" * 64, 1000, 400_000, vehicles, None, None, listed=True)


def edge(
    base: str | None, version: str, *, lost: float | None = None, vehicles: int = 0, state: str = "published"
) -> GraphEdge:
    return GraphEdge(base, version, state, "model" if base else None, 24_117 if base else 400_000, lost, vehicles)


def graph(*nodes: Node, edges: tuple[GraphEdge, ...] = ()) -> Graph:
    """``nodes`` newest first."""
    target = nodes[0].version if nodes else None
    journeys = (Journey(None, 7, True, (target or "",), 400_000, 0.1),)
    return Graph("signs", target, nodes, edges, journeys, (), (), 0)


def chart(*nodes: Node, edges: tuple[GraphEdge, ...] = ()) -> SpanChart:
    found = span_chart(graph(*nodes, edges=edges))
    assert found is not None
    return found


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_before_the_first_release_there_is_no_drawing() -> None:
    assert span_chart(graph()) is None


def test_releases_stand_from_the_oldest_to_the_newest_after_no_model() -> None:
    found = chart(node("3.0.0", 2), node("2.0.0"), node("1.0.0", 5))
    assert [(place.name, place.vehicles) for place in found.places] == [
        ("No model", 7),
        ("1.0.0", 5),
        ("2.0.0", 0),
        ("3.0.0", 2),
    ]
    assert [place.x_percent for place in found.places] == [12.5, 37.5, 62.5, 87.5]


def test_a_line_runs_from_what_it_needs_to_what_it_makes_with_bytes_and_lost() -> None:
    found = chart(node("2.0.0"), node("1.0.0"), edges=(edge("1.0.0", "2.0.0", lost=0.031, vehicles=3), edge(None, "2.0.0")))
    delta, full = found.spans
    assert (delta.x1_percent, delta.x2_percent) == (50.0, 83.333)
    assert (plain(delta.label), plain(full.label)) == ("24.1 kB, 3.1 % lost", "full, 400 kB")
    assert (delta.style, full.style) == ("w-delta", "w-full w-idle")
    assert plain(delta.text) == "1.0.0 to 2.0.0: 24.1 kB, 3.1 % lost, 3 vehicles"
    assert delta.y_px < full.y_px < found.height_px


def test_nothing_lost_is_told_and_nothing_known_is_not() -> None:
    found = chart(node("2.0.0"), node("1.0.0"), edges=(edge("1.0.0", "2.0.0", lost=0.0),))
    assert plain(found.spans[0].label) == "24.1 kB, 0 % lost"


def test_labels_stand_where_there_is_room() -> None:
    versions = [f"{n}.0.0" for n in range(MOST_RELEASES)]
    steps = tuple(edge(one, two) for one, two in pairwise(versions))
    for span in chart(*(node(v) for v in reversed(versions)), edges=steps).spans:
        assert _room_percent(span) >= 50


def _room_percent(span: Span) -> float:
    return 100 - span.label_x_percent if span.anchor == "start" else span.label_x_percent


def test_only_what_vehicles_can_take_is_drawn_and_of_the_full_ones_the_target() -> None:
    edges = (
        edge("1.0.0", "2.0.0", state="retired"),
        edge("1.0.0", "2.0.0", state="queued"),
        edge(None, "2.0.0"),
        edge(None, "1.0.0"),
    )
    assert [span.key for span in chart(node("2.0.0"), node("1.0.0"), edges=edges).spans] == ["nothing-2.0.0"]


def test_of_many_releases_the_newest_and_those_that_run_are_drawn() -> None:
    versions = [f"{n}.0.0" for n in range(20)]
    found = chart(*(node(v, vehicles=int(v == "3.0.0")) for v in reversed(versions)))
    assert [place.name for place in found.places[1:]] == ["3.0.0", "15.0.0", "16.0.0", "17.0.0", "18.0.0", "19.0.0"]
    assert found.hidden == 14


def test_long_names_are_cut_and_told_in_full() -> None:
    found = chart(node("10.20.30-rc.1"))
    assert len(found.places[1].name) == NAME_CHARS
    assert found.places[1].text.startswith("10.20.30-rc.1:")
