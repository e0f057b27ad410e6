"""Operators look at a family's delta graph, and retire deltas."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from server.api.auth import Role, needs
from server.api.parts import TheRegistry
from server.api.schemas import EdgeAnswer, GraphAnswer, JourneyAnswer, Name, NodeAnswer, Page, RetiredAnswer, UnneededAnswer
from server.errors import NotFound
from server.repositories import artifacts
from server.services import deltas, graph
from server.tables import Delta

router = APIRouter(prefix="/api/v1/families/{family}", tags=["delta graph"])
FamilyName = Annotated[Name, Path()]
Number = Annotated[str, Path(max_length=64)]


@router.get("/graph", dependencies=[needs(Role.VIEWER)])
def show_graph(
    family: FamilyName, registry: TheRegistry, target: Annotated[str | None, Query(max_length=64)] = None
) -> GraphAnswer:
    """Releases, the artifacts between them, and the cheapest way of every vehicle to a target.

    The target is the version that a rollout brings now, else the newest, unless one is named.
    """
    with registry.database.reading() as session:
        settings = registry.settings
        found = graph.of_family(session, family, bounds=registry.bounds, delta_bases=settings.delta_bases, target=target)
    return GraphAnswer(
        family=found.family,
        target=found.target,
        nodes=[NodeAnswer(**_fields(node, "full_bytes")) for node in found.nodes],
        edges=[EdgeAnswer(**_fields(edge, "size_bytes")) for edge in found.edges],
        ways=[JourneyAnswer(**_fields(way, "size_bytes")) for way in found.journeys],
        to_make=list(found.to_make),
        to_retire=[UnneededAnswer(base=base, version=version, because=why) for base, version, why in found.to_retire],
        metadata_bytes=found.entry_bytes,
    )


def _fields(value: graph.Node | graph.GraphEdge | graph.Journey, size: str) -> dict[str, Any]:
    fields = asdict(value)
    return {**fields, "bytes": fields.pop(size)}


@router.post("/deltas/retire", dependencies=[needs(Role.PUBLISHER)])
def retire_unneeded(family: FamilyName, registry: TheRegistry) -> Page[RetiredAnswer]:
    """Retire every delta that nobody needs any more; the worker does the same by itself now and then."""
    with registry.database.writing() as session:
        if artifacts.family(session, family) is None:
            raise NotFound(f"there is no family {family}")
        retired = {row.id for row in deltas.retire_unneeded(session, family, bounds=registry.bounds, now=registry.clock())}
        rows = [row for row in artifacts.deltas_of(session, family) if row[0].id in retired]
    return Page(items=[_retired(base.version, version.version, delta) for delta, base, version in rows])


def _retired(base: str, version: str, delta: Delta) -> RetiredAnswer:
    return RetiredAnswer(base=base, version=version, state=delta.state, because=delta.retired_because or "")


@router.delete("/deltas/{base}/{version}", dependencies=[needs(Role.PUBLISHER)])
def retire_delta(family: FamilyName, base: Number, version: Number, registry: TheRegistry) -> RetiredAnswer:
    """Retire one delta: it is offered to nobody from now on, the worker unsigns it, and its file goes later."""
    with registry.database.writing() as session:
        row = artifacts.delta_between(session, family, base, version)
        if row is None:
            raise NotFound(f"there is no delta from {base[:64]} to {version[:64]} of {family}")
        return _retired(base, version, deltas.retire(session, family, row, registry.clock()))
