"""A family's delta graph as operators see it: releases, the artifacts between them, and each vehicle's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from server.errors import NotFound
from server.repositories import artifacts, rollouts
from server.services import deltas
from server.services.planning import DELTA_ENTRY_BYTES, FULL_ENTRY_BYTES, Bounds, Way
from server.tables import NAMED, Delta, DeltaState, Listing, RolloutState, Version


@dataclass(frozen=True, slots=True)
class Node:
    """A published release; ``vehicles`` run it. ``lost`` was measured from the release ``lost_base``.

    ``listed``: signed metadata names it.
    """

    version: str
    content_sha256: str
    content_bytes: int
    full_bytes: int
    vehicles: int
    lost: float | None
    lost_base: str | None
    listed: bool


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """An artifact; ``base`` None: a full one. ``vehicles`` would take it on their way to the target.

    ``state``: a delta's; a full one is published, too, or unlisted.
    """

    base: str | None
    version: str
    state: str
    codec: str | None
    size_bytes: int | None
    lost: float | None
    vehicles: int
    retired_because: str | None = None
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Journey:
    """The way of the vehicles that run ``base`` (None: nothing that is published here), over ``passes`` to the target."""

    base: str | None
    vehicles: int
    by_full: bool
    passes: tuple[str, ...]
    size_bytes: int
    rebuild_s: float


@dataclass(frozen=True, slots=True)
class Graph:
    """``target``: the version that a rollout brings now, else the newest; None before the first is published.

    ``to_make``: bases that a release of the target now would get deltas from and that have none; ``to_retire``: deltas (base,
    version, why) that nobody needs. ``entry_bytes``: what deltas and versions come to in signed metadata.
    """

    family: str
    target: str | None
    nodes: tuple[Node, ...]
    edges: tuple[GraphEdge, ...]
    journeys: tuple[Journey, ...]
    to_make: tuple[str, ...]
    to_retire: tuple[tuple[str, str, str], ...]
    entry_bytes: int

    @property
    def listed(self) -> tuple[Node, ...]:
        """Those that signed metadata names."""
        return tuple(node for node in self.nodes if node.listed)

    @property
    def deltas(self) -> tuple[GraphEdge, ...]:
        """Those that vehicles can take."""
        return tuple(edge for edge in self.edges if edge.base is not None and edge.state == DeltaState.PUBLISHED)


Rows = Sequence[tuple[Delta, Version, Version]]


def of_family(session: Session, family: str, *, bounds: Bounds, delta_bases: int, target: str | None = None) -> Graph:
    """The graph with ways to ``target``. Raises NotFound."""
    if artifacts.family(session, family) is None:
        raise NotFound(f"there is no family {family}")
    versions = artifacts.published_versions(session, family)
    rows = artifacts.deltas_of(session, family)
    running = artifacts.vehicles_by_content(session, family)
    aim = _aim(session, family, versions, target)
    ways = _ways(session, aim, versions, running, bounds) if aim else []
    numbers = {version.content_sha256: version.version for version in versions}
    unneeded = {delta.id: because for delta, because in deltas.unneeded(session, family, bounds)}
    to_make = deltas.to_make(session, aim, limit=delta_bases, bounds=bounds) if aim else []
    return Graph(
        family=family,
        target=aim.version if aim else None,
        nodes=tuple(_node(version, running, numbers) for version in versions),
        edges=(*_delta_edges(rows, ways), *_full_edges(versions, ways)),
        journeys=tuple(_journey(base, vehicles, way, numbers) for base, vehicles, way in ways),
        to_make=tuple(numbers[sha256] for sha256 in to_make),
        to_retire=tuple(
            (base.version, version.version, unneeded[delta.id]) for delta, base, version in rows if delta.id in unneeded
        ),
        entry_bytes=DELTA_ENTRY_BYTES * sum(delta.state in (DeltaState.PUBLISHED, DeltaState.RETIRING) for delta, _, _ in rows)
        + FULL_ENTRY_BYTES * sum(version.listing in NAMED for version in versions),
    )


def _aim(session: Session, family: str, versions: Sequence[Version], target: str | None) -> Version | None:
    if target is not None:
        found = next((version for version in versions if version.version == target), None)
        if found is None:
            raise NotFound(f"there is no published version {target[:64]} of {family}")
        return found
    active = rollouts.active_of(session, family)
    brought = active.version_id if active is not None and active.state == RolloutState.RUNNING else None
    return next((version for version in versions if version.id == brought), versions[0] if versions else None)


def _ways(
    session: Session, aim: Version, versions: Sequence[Version], running: Mapping[str | None, int], bounds: Bounds
) -> list[tuple[str | None, int, Way]]:
    """(content, its vehicles, their way) for every older release, newest first, and at last for what is not published here."""
    legs = artifacts.legs(session, aim.family, counters=(1, aim.release_counter))
    older = [version for version in versions if version.release_counter < aim.release_counter]
    published = {version.content_sha256 for version in versions}
    elsewhere = sum(count for sha256, count in running.items() if sha256 not in published)
    starts = [(version.content_sha256, running.get(version.content_sha256, 0)) for version in older]
    found = [(base, count, deltas.way_of(base, aim, legs, bounds)) for base, count in [*starts, (None, elsewhere)]]
    # The bounds may rule the full artifact out too; it is the way all the same.
    full = Way((deltas.full_edge(aim),))
    return [(base, count, way or full) for base, count, way in found]


def _node(version: Version, running: Mapping[str | None, int], numbers: Mapping[str | None, str]) -> Node:
    return Node(
        version=version.version,
        content_sha256=version.content_sha256 or "",
        content_bytes=version.content_bytes or 0,
        full_bytes=version.full_bytes or 0,
        vehicles=running.get(version.content_sha256, 0),
        lost=0.0 if version.lossless else version.lost,
        lost_base=numbers.get(version.lost_base_sha256) if version.lost_base_sha256 else None,
        listed=version.listing in NAMED,
    )


def _delta_edges(rows: Rows, ways: Sequence[tuple[str | None, int, Way]]) -> list[GraphEdge]:
    return [
        GraphEdge(
            base=base.version,
            version=version.version,
            state=delta.state,
            codec=delta.codec,
            size_bytes=delta.size_bytes,
            lost=deltas.lost(version, base),
            vehicles=_travellers(ways, base.content_sha256, version.content_sha256),
            retired_because=delta.retired_because,
            retired_at=delta.retired_at,
        )
        for delta, base, version in rows
    ]


def _full_edges(versions: Sequence[Version], ways: Sequence[tuple[str | None, int, Way]]) -> list[GraphEdge]:
    return [
        GraphEdge(
            base=None,
            version=version.version,
            state=DeltaState.PUBLISHED if version.listing in NAMED else Listing.UNLISTED,
            codec=None,
            size_bytes=version.full_bytes,
            lost=None,
            vehicles=_travellers(ways, None, version.content_sha256),
        )
        for version in versions
    ]


def _travellers(ways: Sequence[tuple[str | None, int, Way]], base: str | None, content: str | None) -> int:
    return sum(count for _, count, way in ways if any((e.base, e.content) == (base, content) for e in way.edges))


def _journey(base: str | None, vehicles: int, way: Way, numbers: Mapping[str | None, str]) -> Journey:
    return Journey(
        base=numbers.get(base) if base else None,
        vehicles=vehicles,
        by_full=not way.is_chain,
        passes=tuple(numbers[edge.content] for edge in way.edges),
        size_bytes=way.size_bytes,
        rebuild_s=way.rebuild_s,
    )
