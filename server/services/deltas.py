"""Which deltas are made, kept, offered and retired: the decisions of ``planning``, carried out on the database.

Kept: those smaller than the full artifact, because another one would cost a vehicle more bytes and more work. Retired: those
that lie on no vehicle's cheapest way any more, because every vehicle pays for their entries in signed metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from model_registry.contract.messages import Hop
from model_registry.contract.targets import DeltaTarget, full_path
from server.errors import Conflict
from server.repositories import artifacts, fleet, jobs, rollouts
from server.services import planning
from server.services.planning import FULL, Bounds, Edge, Way
from server.tables import Counterfactual, Delta, DeltaState, JobKind, RetiredBecause, Vehicle, Version


@dataclass(frozen=True, slots=True)
class MadeDelta:
    """What a delta job found out, in bytes where not named otherwise."""

    codec: str
    sha256: str
    size_bytes: int
    float32_full_bytes: int
    compressed_full_bytes: int
    bsdiff4_float16_bytes: int


def worth_keeping(delta_bytes: int, full_bytes: int) -> bool:
    """Whether a vehicle is better off with the delta."""
    return delta_bytes < full_bytes


def lost(version: Version, base: Version) -> float | None:
    """The share of the update from ``base`` that the version does not deliver; None where nobody measured it.

    It is measured when a version is compressed, from the base that it was kept close to. From another base the update is
    another one, and so is its share; only where every weight is exact is nothing lost whatever the base.
    """
    if version.lossless:
        return 0.0
    return version.lost if version.lost_base_sha256 == base.content_sha256 else None


def full_edge(version: Version) -> Edge:
    """A published version's full artifact."""
    return Edge(None, version.content_sha256 or "", version.full_bytes or 0, version.content_bytes or 0)


def delta_edge(leg: artifacts.Leg) -> Edge:
    """A published delta."""
    return Edge(leg.base_sha256, leg.content_sha256, leg.size_bytes, leg.content_bytes, leg.base_bytes, leg.codec)


def hops(session: Session, vehicle: Vehicle, version: Version, bounds: Bounds) -> tuple[Hop, ...]:
    """The deltas that a vehicle takes to a version, one after the other; none when the full artifact is its cheapest way."""
    if vehicle.installed_sha256 is None or version.content_sha256 is None:
        return ()
    counters = (vehicle.installed_counter or 1, version.release_counter)
    legs = [leg for leg in artifacts.legs(session, version.family, counters=counters) if leg.listed]
    way = way_of(vehicle.installed_sha256, version, legs, bounds)
    if way is None or not way.is_chain:
        return ()
    versions = {leg.content_sha256: leg.version for leg in legs}
    return tuple(
        Hop(
            DeltaTarget(version.family, edge.base or "", edge.content).path,
            full_path(version.family, versions[edge.content]),
        )
        for edge in way.edges
    )


def to_make(session: Session, target: Version, *, limit: int, bounds: Bounds) -> list[str]:
    """The chosen bases whose delta neither exists nor is in the making, nor was found to be of no use."""
    known = {row.base.content_sha256: row.delta for row in artifacts.deltas_to(session, [target.id])}
    legs = artifacts.legs(session, target.family, counters=(1, target.release_counter))
    edges = [delta_edge(leg) for leg in legs]
    previous = artifacts.published_before(session, target)
    chosen = planning.deltas_to_build(
        artifacts.installed_histogram(session, target),
        previous.content_sha256 if previous else None,
        edges,
        full_bytes=target.full_bytes or 0,
        bounds=bounds,
        limit=limit,
    )

    def is_missing(base: str) -> bool:
        delta = known.get(base)
        if delta is None or delta.state == DeltaState.FAILED:
            return True
        # One that was retired for a cheaper way is made again when that way is gone; an operator's word stays.
        retired = delta.state == DeltaState.RETIRED and delta.retired_because != RetiredBecause.OPERATOR
        return retired and planning.cheapest_way(base, target.content_sha256 or "", edges, bounds) is None

    return [base for base in chosen if is_missing(base)]


def plan(session: Session, target: Version, *, limit: int, bounds: Bounds, now: datetime) -> None:
    """Ask for every delta that is to be made."""
    artifacts.hold_family(session, target.family)
    known = {row.base.content_sha256: row.delta for row in artifacts.deltas_to(session, [target.id])}
    for base_sha256 in to_make(session, target, limit=limit, bounds=bounds):
        delta = known.get(base_sha256)
        if delta is None:
            base = artifacts.version_by_content(session, base_sha256)
            if base is None:
                raise RuntimeError("a base was chosen that is not published")
            delta = Delta(base_id=base.id, version_id=target.id, state=DeltaState.QUEUED, created_at=now)
            session.add(delta)
        delta.state, delta.retired_because, delta.retired_at = DeltaState.QUEUED, None, None
        session.flush()
        key = f"delta:{delta.base_id}-{target.id}"
        delta.job_id = jobs.request(session, JobKind.DELTA, key, {"delta_id": delta.id}, now).id


def finish(session: Session, delta: Delta, made: MadeDelta, *, published: bool) -> None:
    """Enter a delta that was made, and signed if ``published``; vehicles that wait are looked at again."""
    delta.state = DeltaState.PUBLISHED if published else DeltaState.DROPPED
    delta.codec, delta.sha256, delta.size_bytes = made.codec, made.sha256, made.size_bytes
    base = artifacts.version_by_id(session, delta.base_id)
    artifacts.save_counterfactual(
        session,
        Counterfactual(
            version_id=delta.version_id,
            base_sha256=base.content_sha256,
            float32_full_bytes=made.float32_full_bytes,
            compressed_full_bytes=made.compressed_full_bytes,
            bsdiff4_float16_bytes=made.bsdiff4_float16_bytes,
        ),
    )
    session.flush()
    if published:
        # It may be a part of the way from any base; who is under way already stays on the way that was offered.
        fleet.touch(session, rollouts.offered_vehicles(base.family, begun=False))


def note_costs(session: Session, version: Version, bases: Iterable[str], bounds: Bounds) -> None:
    """For vehicles that come by a chain: what bsdiff4 would have cost them, hop by hop as they come.

    Without this they would be held against a whole float16 file, which they would not have had to take.
    """
    legs = artifacts.legs(session, version.family, counters=(1, version.release_counter))
    for base in sorted(set(bases)):
        way = way_of(base, version, legs, bounds)
        whole = artifacts.counterfactual(session, version.id, "")
        if whole is None or way is None or len(way.edges) < 2 or artifacts.counterfactual(session, version.id, base):
            continue
        parts = [_bsdiff4_bytes(session, edge) for edge in way.edges]
        artifacts.save_counterfactual(
            session,
            Counterfactual(
                version_id=version.id,
                base_sha256=base,
                float32_full_bytes=whole.float32_full_bytes,
                compressed_full_bytes=whole.compressed_full_bytes,
                bsdiff4_float16_bytes=min(sum(parts), whole.bsdiff4_float16_bytes),
            ),
        )
    session.flush()


def _bsdiff4_bytes(session: Session, edge: Edge) -> int:
    """What the delta's job found out."""
    version = artifacts.version_by_content(session, edge.content)
    found = artifacts.counterfactual(session, version.id, edge.base or "") if version else None
    return found.bsdiff4_float16_bytes if found else 0


def fail(delta: Delta) -> None:
    """Nobody makes it; its vehicles take another way."""
    delta.state = DeltaState.FAILED


def wanted_ways(session: Session, family: str) -> set[tuple[str | None, str]]:
    """From what vehicles run, and the release before, to what they may be asked to run: the newest, and rollouts' versions."""
    newest = artifacts.newest_published(session, family)
    targets = {version.id: version for version in [newest, *rollouts.unfinished_targets(session, family)] if version}
    wanted: set[tuple[str | None, str]] = set()
    for target in targets.values():
        previous = artifacts.published_before(session, target)
        bases = {*artifacts.installed_histogram(session, target), *([previous.content_sha256] if previous else [])}
        wanted |= {(base, target.content_sha256 or "") for base in bases}
    return wanted


def unneeded(session: Session, family: str, bounds: Bounds) -> list[tuple[Delta, RetiredBecause]]:
    """Published deltas that nobody needs; none while one is in the making, which may yet become a chain's last hop."""
    if artifacts.any_in_the_making(session, family):
        return []
    rows = [row for row in artifacts.deltas_of(session, family) if row[0].state == DeltaState.PUBLISHED]
    known = {(base.content_sha256, version.content_sha256): delta for delta, base, version in rows}
    edges = [
        Edge(
            base.content_sha256,
            two.content_sha256 or "",
            delta.size_bytes or 0,
            two.content_bytes or 0,
            base.content_bytes or 0,
            delta.codec or FULL,
        )
        for delta, base, two in rows
    ]
    fulls = [full_edge(version) for version in artifacts.published_versions(session, family)]
    found = planning.unneeded_deltas([*edges, *fulls], wanted_ways(session, family), bounds)
    return [(known[edge.base, edge.content], because) for edge, because in found]


def retire_unneeded(session: Session, family: str, *, bounds: Bounds, now: datetime) -> list[Delta]:
    """Retire what nobody needs any more."""
    artifacts.hold_family(session, family)
    found = unneeded(session, family, bounds)
    for delta, because in found:
        delta.state, delta.retired_because, delta.retired_at = DeltaState.RETIRING, because, now
    _have_looked_at_again(session, family, found)
    return [delta for delta, _ in found]


def retire(session: Session, family: str, delta: Delta, now: datetime) -> Delta:
    """Retire a delta on an operator's word. Repeating it changes nothing. Raises Conflict."""
    artifacts.hold_family(session, family)
    session.refresh(delta)
    if delta.state in (DeltaState.RETIRING, DeltaState.RETIRED):
        delta.retired_because = RetiredBecause.OPERATOR
    elif delta.state == DeltaState.PUBLISHED:
        delta.state, delta.retired_because, delta.retired_at = DeltaState.RETIRING, RetiredBecause.OPERATOR, now
        _have_looked_at_again(session, family, [delta])
    else:
        raise Conflict(f"the delta is {delta.state}, not published", remedy="only what is published can be retired")
    return delta


def _have_looked_at_again(session: Session, family: str, changed: Iterable[object]) -> None:
    """Vehicles with something to do may have been offered what is retired now."""
    session.flush()
    if any(True for _ in changed):
        fleet.touch(session, rollouts.offered_vehicles(family, begun=True))


def delta_name(family: str, base: Version, version: Version) -> str:
    """A delta's name in signed metadata."""
    return DeltaTarget(family, base.content_sha256 or "", version.content_sha256 or "").path


def way_of(base: str | None, target: Version, legs: Iterable[artifacts.Leg], bounds: Bounds) -> Way | None:
    """The cheapest way to a version over the deltas that exist, or its full artifact."""
    edges = [full_edge(target), *(delta_edge(leg) for leg in legs)]
    return planning.cheapest_way(base, target.content_sha256 or "", edges, bounds)
