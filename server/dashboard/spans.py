"""Geometry of the delta graph: releases side by side, each artifact a line from where it starts to where it leads.

As in ``charts``: horizontal positions are percentages, vertical ones pixels. A line each, never crossing another, so that bytes
and what is lost stand readable on every one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.dashboard.formatting import NO_BREAK, plural, share, size
from server.services.graph import Graph, GraphEdge
from server.tables import DeltaState

HEAD_PX, ROW_PX, FOOT_PX = 46, 34, 8
MOST_RELEASES = 6
NAME_CHARS = 8
NOTHING = "No model"


@dataclass(frozen=True, slots=True)
class Place:
    """A release's column, or that of vehicles without a model; ``name`` is short enough for it."""

    name: str
    text: str
    vehicles: int
    x_percent: float


@dataclass(frozen=True, slots=True)
class Span:
    """An artifact's line with its label, which stands where there is room for it; ``style`` is a CSS class."""

    key: str
    style: str
    x1_percent: float
    x2_percent: float
    y_px: float
    label: str
    label_x_percent: float
    anchor: str
    text: str


@dataclass(frozen=True, slots=True)
class SpanChart:
    """The whole drawing; ``hidden`` releases are too old and too lonely to be drawn."""

    places: tuple[Place, ...]
    spans: tuple[Span, ...]
    height_px: float
    hidden: int
    summary: str


def span_chart(graph: Graph) -> SpanChart | None:
    """The newest releases, and older ones that vehicles run, as far as there is room; None before the first release."""
    if not graph.nodes:
        return None
    shown = _shown(graph)
    step = 100 / (len(shown) + 1)
    centres: dict[str | None, float] = {version: step * (index + 1.5) for index, version in enumerate(shown)}
    centres[None] = step / 2
    edges = [edge for edge in graph.edges if _is_drawn(edge, graph, centres)]
    edges.sort(key=lambda edge: (-centres[edge.version], -centres[edge.base]))
    spans = tuple(_span(edge, centres, HEAD_PX + ROW_PX * (row + 1) - 8) for row, edge in enumerate(edges))
    return SpanChart(
        places=_places(graph, shown, centres),
        spans=spans,
        height_px=HEAD_PX + ROW_PX * len(edges) + FOOT_PX,
        hidden=len(graph.nodes) - len(shown),
        summary="; ".join(span.text for span in spans),
    )


def _shown(graph: Graph) -> list[str]:
    """Versions to draw, oldest first."""
    ranked = sorted(range(len(graph.nodes)), key=lambda n: (n > 1, graph.nodes[n].vehicles == 0, n))
    return [graph.nodes[n].version for n in sorted(ranked[:MOST_RELEASES], reverse=True)]


def _is_drawn(edge: GraphEdge, graph: Graph, centres: Mapping[str | None, float]) -> bool:
    known = edge.base in centres and edge.version in centres
    # Of the full artifacts, the one that is an alternative to the deltas.
    return known and edge.state == DeltaState.PUBLISHED and (edge.base is not None or edge.version == graph.target)


def _places(graph: Graph, shown: list[str], centres: Mapping[str | None, float]) -> tuple[Place, ...]:
    elsewhere = sum(journey.vehicles for journey in graph.journeys if journey.base is None)
    running = {node.version: node.vehicles for node in graph.nodes}
    counts = [(NOTHING, elsewhere, centres[None]), *((v, running[v], centres[v]) for v in shown)]
    return tuple(Place(_short(name), f"{name}: {plural(n, 'vehicle')}", n, round(x, 3)) for name, n, x in counts)


def _short(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"


def _span(edge: GraphEdge, centres: Mapping[str | None, float], y_px: float) -> Span:
    x1, x2 = centres[edge.base], centres[edge.version]
    from_start = x1 <= 100 - x2
    kind = "full" if edge.base is None else "delta"
    return Span(
        key=f"{edge.base or 'nothing'}-{edge.version}",
        style=f"w-{kind}" + ("" if edge.vehicles else " w-idle"),
        x1_percent=round(x1, 3),
        x2_percent=round(x2, 3),
        y_px=y_px,
        label=_label(edge),
        label_x_percent=round(x1 if from_start else x2, 3),
        anchor="start" if from_start else "end",
        text=f"{edge.base or NOTHING} to {edge.version}: {_label(edge)}, {plural(edge.vehicles, 'vehicle')}",
    )


def _label(edge: GraphEdge) -> str:
    lost = "" if edge.lost is None else f", {share(edge.lost)}{NO_BREAK}lost"
    full = "full, " if edge.base is None else ""
    return f"{full}{size(edge.size_bytes or 0)}{lost}"
