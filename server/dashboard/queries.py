"""All SQL of the dashboard: a session in, figures out. Nothing is written, and each page asks a fixed number of questions.

The largest table is ``deployments``. It is read once per page as a tally, grouped to a row for each combination of wave, state
and failure code, and everything that is counted or summed comes from those rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import reduce

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session, aliased

from model_registry.contract.messages import BytesReceived, DeploymentState
from server.dashboard.charts import add
from server.dashboard.figures import (
    Alternatives,
    FailureLine,
    FamilyLine,
    Fleet,
    Minute,
    Overview,
    RolloutLine,
    RolloutPage,
    VehicleLine,
    VehiclePage,
    VersionLine,
    WaveLine,
)
from server.services import graph, waves
from server.services.graph import Graph
from server.services.planning import Bounds
from server.tables import (
    Counterfactual,
    Delta,
    DeltaState,
    Deployment,
    Family,
    Job,
    Presence,
    Rollout,
    RolloutMinute,
    Vehicle,
    VehicleState,
    Version,
    VersionState,
    Wave,
)

ROLLOUTS_SHOWN = 20
VERSIONS_SHOWN = 8
VEHICLES_A_PAGE = 50


@dataclass(frozen=True, slots=True)
class Tally:
    """Deployments of one rollout that agree in wave, state and code.

    ``alternatives`` counts those that succeeded and moved a model: others would have moved nothing in another way either.
    """

    rollout_id: int
    wave: int
    state: DeploymentState
    code: str | None
    vehicles: int
    received: BytesReceived
    alternatives: Alternatives


def overview(session: Session, *, now: datetime, recent_s: float) -> Overview:
    """The first page; a vehicle is recent when it checked in within ``recent_s`` seconds."""
    tallies = _tallies(session)
    by_rollout = _grouped(tallies)
    rollouts = session.execute(
        select(Rollout, Version)
        .join(Version, Version.id == Rollout.version_id)
        .order_by(Rollout.id.desc())
        .limit(ROLLOUTS_SHOWN)
    )
    number = session.scalar(select(func.count()).select_from(Rollout)) or 0
    return Overview(
        fleet=_fleet(session, now - timedelta(seconds=recent_s)),
        families=_families(session),
        rollouts=tuple(_rollout_line(rollout, version, by_rollout[rollout.id]) for rollout, version in rollouts),
        older_rollouts=max(0, number - ROLLOUTS_SHOWN),
        sent=_sent(tallies),
        alternatives=_alternatives(tallies),
        failures=_failures(tallies),
    )


def rollout_page(
    session: Session, rollout_id: int, *, state: DeploymentState | None = None, after: str | None = None
) -> RolloutPage | None:
    """One rollout with a page of its vehicles; None when there is no such rollout."""
    found = session.execute(
        select(Rollout, Version).join(Version, Version.id == Rollout.version_id).where(Rollout.id == rollout_id)
    ).first()
    if found is None:
        return None
    rollout, version = found
    tallies = _tallies(session, rollout_id)
    served, failed = _inferences(session, rollout_id)
    return RolloutPage(
        rollout=_rollout_line(rollout, version, tallies),
        waiting_until=waves.waiting_until(session, rollout),
        success_threshold_percent=rollout.success_threshold_percent,
        error_threshold_percent=rollout.error_threshold_percent,
        waves=_waves(session, rollout_id, tallies),
        minutes=_minutes(session, rollout_id),
        failures=_failures(tallies),
        inferences_served=served,
        inferences_failed=failed,
        vehicles=_vehicles(session, rollout_id, state, after),
    )


def family_page(session: Session, family: str, *, bounds: Bounds, delta_bases: int) -> Graph | None:
    """One family's delta graph; None when there is no such family."""
    if session.get(Family, family) is None:
        return None
    return graph.of_family(session, family, bounds=bounds, delta_bases=delta_bases)


def _tallies(session: Session, rollout_id: int | None = None) -> list[Tally]:
    d, empty, pair = Deployment, aliased(Counterfactual), aliased(Counterfactual)
    delivered = (d.state == DeploymentState.SUCCEEDED) & (d.received_delta + d.received_full > 0)
    groups = (d.rollout_id, d.wave, d.state, d.code)
    costs = (
        empty.float32_full_bytes,
        empty.compressed_full_bytes,
        # Without figures for its base, a vehicle would have had to take the whole file there too.
        func.coalesce(pair.bsdiff4_float16_bytes, empty.bsdiff4_float16_bytes),
    )
    sums = [func.sum(column) for column in (d.received_metadata, d.received_delta, d.received_full)]
    sums += [func.sum(case((delivered, cost), else_=0)) for cost in costs]
    query = (
        select(*groups, func.count(), *sums)
        .join(Rollout, Rollout.id == d.rollout_id)
        .outerjoin(empty, (empty.version_id == Rollout.version_id) & (empty.base_sha256 == ""))
        .outerjoin(pair, (pair.version_id == Rollout.version_id) & (pair.base_sha256 == d.base_sha256))
        .group_by(*groups)
    )
    if rollout_id is not None:
        query = query.where(d.rollout_id == rollout_id)
    return [_tally(*row) for row in session.execute(query)]


def _tally(rollout_id: int, wave: int, state: str, code: str | None, vehicles: int, *sums: int | None) -> Tally:
    # PostgreSQL sums bigint to numeric; a sum over unknown costs is null.
    numbers = [int(number or 0) for number in sums]
    return Tally(
        rollout_id=rollout_id,
        wave=wave,
        state=DeploymentState(state),
        code=code,
        vehicles=vehicles,
        received=BytesReceived(*numbers[:3]),
        alternatives=Alternatives(*numbers[3:]),
    )


def _grouped(tallies: Iterable[Tally]) -> Mapping[int, list[Tally]]:
    grouped: defaultdict[int, list[Tally]] = defaultdict(list)
    for tally in tallies:
        grouped[tally.rollout_id].append(tally)
    return grouped


def _sent(tallies: Iterable[Tally]) -> BytesReceived:
    return reduce(add, (tally.received for tally in tallies), BytesReceived())


def _alternatives(tallies: Sequence[Tally]) -> Alternatives:
    return Alternatives(
        float32_full=sum(tally.alternatives.float32_full for tally in tallies),
        compressed_full=sum(tally.alternatives.compressed_full for tally in tallies),
        bsdiff4_float16=sum(tally.alternatives.bsdiff4_float16 for tally in tallies),
    )


def _progress(tallies: Iterable[Tally]) -> Mapping[DeploymentState, int]:
    counts: Counter[DeploymentState] = Counter()
    for tally in tallies:
        counts[tally.state] += tally.vehicles
    return counts


def _failures(tallies: Iterable[Tally]) -> tuple[FailureLine, ...]:
    counts: Counter[str] = Counter()
    for tally in tallies:
        if tally.state == DeploymentState.FAILED:
            counts[tally.code or "unknown"] += tally.vehicles
    return tuple(FailureLine(code, count) for code, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rollout_line(rollout: Rollout, version: Version, tallies: Sequence[Tally]) -> RolloutLine:
    return RolloutLine(
        id=rollout.id,
        family=rollout.family,
        version=version.version,
        state=rollout.state,
        reason=rollout.halted_because,
        created_at=rollout.created_at,
        started_at=rollout.started_at,
        finished_at=rollout.finished_at,
        progress=_progress(tallies),
        sent=_sent(tallies),
        alternatives=_alternatives(tallies),
    )


def _fleet(session: Session, recent_since: datetime) -> Fleet:
    states = dict(session.execute(select(Vehicle.state, func.count()).group_by(Vehicle.state)).all())
    served, failed = session.execute(
        select(func.coalesce(func.sum(Presence.inferences_served), 0), func.coalesce(func.sum(Presence.inferences_failed), 0))
    ).one()
    recent = session.scalar(select(func.count()).select_from(Presence).where(Presence.seen_at >= recent_since))
    return Fleet(
        vehicles=states.get(VehicleState.ACCEPTED, 0),
        waiting=states.get(VehicleState.PENDING, 0),
        recent=recent or 0,
        inferences_served=int(served),
        inferences_failed=int(failed),
    )


def _families(session: Session) -> tuple[FamilyLine, ...]:
    families = session.scalars(select(Family).order_by(Family.name)).all()
    running = _vehicles_by_digest(session)
    deltas = _smallest_deltas(session)
    versions: defaultdict[str, list[VersionLine]] = defaultdict(list)
    rows = (
        select(Version, Job.progress, Job.step)
        .outerjoin(Job, Job.id == Version.job_id)
        .order_by(Version.release_counter.desc())
    )
    for version, progress, step in session.execute(rows):
        # Without content it is not published, and no vehicle runs it.
        vehicles = running.get((version.family, version.content_sha256), 0) if version.content_sha256 else 0
        if vehicles or len(versions[version.family]) < VERSIONS_SHOWN:
            versions[version.family].append(
                _version_line(version, progress or 0.0, step or "", vehicles, deltas.get(version.id))
            )
    return tuple(_family_line(family, versions[family.name], running) for family in families)


def _family_line(family: Family, versions: list[VersionLine], running: Mapping[tuple[str, str | None], int]) -> FamilyLine:
    without = running.get((family.name, None), 0)
    everything = sum(count for (name, _), count in running.items() if name == family.name)
    known = sum(line.vehicles for line in versions)
    return FamilyLine(family.name, family.hardware_id, tuple(versions), without, everything - without - known)


def _vehicles_by_digest(session: Session) -> Mapping[tuple[str, str | None], int]:
    groups = (Vehicle.family, Vehicle.installed_sha256)
    query = select(*groups, func.count()).where(Vehicle.state == VehicleState.ACCEPTED).group_by(*groups)
    return {(family, digest): count for family, digest, count in session.execute(query)}


def _smallest_deltas(session: Session) -> Mapping[int, tuple[int, str]]:
    base = aliased(Version)
    query = (
        select(Delta.version_id, Delta.size_bytes, base.version)
        .join(base, base.id == Delta.base_id)
        .where(Delta.state == DeltaState.PUBLISHED)
        .order_by(Delta.size_bytes.desc(), base.release_counter)
    )
    # The last one of each version stays.
    return {version: (size, name) for version, size, name in session.execute(query) if size is not None}


def _version_line(version: Version, progress: float, step: str, vehicles: int, delta: tuple[int, str] | None) -> VersionLine:
    return VersionLine(
        family=version.family,
        version=version.version,
        state=version.state,
        error=version.error or version.error_code if version.state == VersionState.FAILED else None,
        progress=progress,
        step=step,
        vehicles=vehicles,
        float32_bytes=version.float32_bytes,
        full_bytes=version.full_bytes,
        smallest_delta_bytes=delta[0] if delta else None,
        smallest_delta_base=delta[1] if delta else None,
    )


def _waves(session: Session, rollout_id: int, tallies: Sequence[Tally]) -> tuple[WaveLine, ...]:
    waves = session.scalars(select(Wave).where(Wave.rollout_id == rollout_id).order_by(Wave.ordinal))
    return tuple(
        WaveLine(
            number=wave.ordinal + 1,
            percent=wave.percent,
            state=wave.state,
            progress=_progress(tally for tally in tallies if tally.wave == wave.ordinal),
        )
        for wave in waves
    )


def _minutes(session: Session, rollout_id: int) -> tuple[Minute, ...]:
    m = RolloutMinute
    query = select(m.minute, m.metadata_bytes, m.delta_bytes, m.full_bytes).where(m.rollout_id == rollout_id).order_by(m.minute)
    return tuple(
        Minute(datetime.fromtimestamp(minute * 60, UTC), BytesReceived(*received))
        for minute, *received in session.execute(query)
    )


def _inferences(session: Session, rollout_id: int) -> tuple[int, int]:
    served, failed = session.execute(
        select(func.coalesce(func.sum(Presence.inferences_served), 0), func.coalesce(func.sum(Presence.inferences_failed), 0))
        .join(Deployment, Deployment.vehicle_id == Presence.vehicle_id)
        .where(Deployment.rollout_id == rollout_id)
    ).one()
    return int(served), int(failed)


def _vehicles(session: Session, rollout_id: int, state: DeploymentState | None, after: str | None) -> VehiclePage:
    query = (
        select(Deployment, Vehicle.installed_version, Presence.inferences_served, Presence.inferences_failed)
        .join(Vehicle, Vehicle.id == Deployment.vehicle_id)
        .outerjoin(Presence, Presence.vehicle_id == Deployment.vehicle_id)
        .where(Deployment.rollout_id == rollout_id)
        .order_by(Deployment.vehicle_id)
        .limit(VEHICLES_A_PAGE + 1)
    )
    if state is not None:
        query = query.where(Deployment.state == state)
    if after is not None:
        query = query.where(Deployment.vehicle_id > after)
    lines = tuple(_vehicle_line(*row) for row in session.execute(query))
    shown = lines[:VEHICLES_A_PAGE]
    return VehiclePage(shown, state, after, shown[-1].vehicle_id if len(lines) > len(shown) else None)


def _vehicle_line(deployment: Deployment, runs: str | None, served: int | None, failed: int | None) -> VehicleLine:
    return VehicleLine(
        vehicle_id=deployment.vehicle_id,
        wave=deployment.wave + 1,
        state=DeploymentState(deployment.state),
        base_version=deployment.base_version,
        runs=runs,
        received=BytesReceived(deployment.received_metadata, deployment.received_delta, deployment.received_full),
        code=deployment.code,
        detail=deployment.detail,
        inferences_served=served or 0,
        inferences_failed=failed or 0,
        updated_at=deployment.updated_at,
    )
