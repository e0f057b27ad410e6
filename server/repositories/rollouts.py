"""Rollouts, their waves and deployments, and the bytes they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, case, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session, aliased

from model_registry.contract.messages import BytesReceived, DeploymentState
from server.tables import Counterfactual, Deployment, Rollout, RolloutMinute, RolloutState, Vehicle, Version, Wave, WaveState

FINAL = tuple(state.value for state in DeploymentState if state.final)
# What brings its version to vehicles, now or as soon as an operator says so.
UNFINISHED = (RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED)


@dataclass(frozen=True, slots=True)
class Counts:
    """Deployments of one wave by outcome. Aborted ones are in ``total`` too."""

    total: int = 0
    succeeded: int = 0
    failed: int = 0
    aborted: int = 0

    @property
    def final(self) -> int:
        return self.succeeded + self.failed + self.aborted


@dataclass(frozen=True, slots=True)
class ActiveDeployment:
    """A vehicle's unfinished attempt with everything that decides whether it is offered."""

    deployment: Deployment
    rollout_state: RolloutState
    wave_state: WaveState
    version: Version


def rollout(session: Session, rollout_id: int, *, lock: bool = False) -> Rollout | None:
    query = select(Rollout).where(Rollout.id == rollout_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def rollouts(session: Session, *, before: int, limit: int, family: str | None) -> Sequence[tuple[Rollout, str]]:
    """Newest first, with the version each brings."""
    query = select(Rollout, Version.version).join(Version, Version.id == Rollout.version_id).where(Rollout.id < before)
    if family is not None:
        query = query.where(Rollout.family == family)
    return [(r, v) for r, v in session.execute(query.order_by(Rollout.id.desc()).limit(limit))]


def active_of(session: Session, family: str) -> Rollout | None:
    active = Rollout.state.in_([RolloutState.RUNNING, RolloutState.PAUSED])
    return session.scalars(select(Rollout).where(Rollout.family == family, active)).one_or_none()


def running_ids(session: Session) -> Sequence[int]:
    return session.scalars(select(Rollout.id).where(Rollout.state == RolloutState.RUNNING).order_by(Rollout.id)).all()


def waves(session: Session, rollout_id: int) -> Sequence[Wave]:
    return session.scalars(select(Wave).where(Wave.rollout_id == rollout_id).order_by(Wave.ordinal)).all()


def counts(session: Session, rollout_id: int) -> dict[int, Counts]:
    """By wave."""

    def number(state: DeploymentState) -> ColumnElement[int]:
        return func.sum(case((Deployment.state == state, 1), else_=0))

    query = (
        select(
            Deployment.wave,
            func.count(),
            number(DeploymentState.SUCCEEDED),
            number(DeploymentState.FAILED),
            number(DeploymentState.ABORTED),
        )
        .where(Deployment.rollout_id == rollout_id)
        .group_by(Deployment.wave)
    )
    return {wave: Counts(total, good, bad, gone) for wave, total, good, bad, gone in session.execute(query)}


def deployments(session: Session, rollout_id: int, *, after: int, limit: int) -> Sequence[Deployment]:
    query = select(Deployment).where(Deployment.rollout_id == rollout_id, Deployment.id > after)
    return session.scalars(query.order_by(Deployment.id).limit(limit)).all()


def deployments_of_vehicle(session: Session, vehicle_id: str, *, limit: int) -> Sequence[Deployment]:
    query = select(Deployment).where(Deployment.vehicle_id == vehicle_id)
    return session.scalars(query.order_by(Deployment.id.desc()).limit(limit)).all()


def deployment(session: Session, deployment_id: int, vehicle_id: str) -> Deployment | None:
    """Locked for the transaction: two reports of one deployment are taken one after the other."""
    query = select(Deployment).where(Deployment.id == deployment_id, Deployment.vehicle_id == vehicle_id)
    return session.scalars(query.with_for_update()).one_or_none()


def active_deployment(session: Session, vehicle_id: str) -> ActiveDeployment | None:
    query = (
        select(Deployment, Rollout.state, Wave.state, Version)
        .join(Rollout, Rollout.id == Deployment.rollout_id)
        .join(Wave, (Wave.rollout_id == Deployment.rollout_id) & (Wave.ordinal == Deployment.wave))
        .join(Version, Version.id == Rollout.version_id)
        .where(Deployment.vehicle_id == vehicle_id, Deployment.state.not_in(FINAL))
    )
    row = session.execute(query).one_or_none()
    return ActiveDeployment(row[0], RolloutState(row[1]), WaveState(row[2]), row[3]) if row else None


def in_wave(session: Session, rollout_id: int, wave: int) -> Sequence[tuple[Deployment, Vehicle]]:
    query = (
        select(Deployment, Vehicle)
        .join(Vehicle, Vehicle.id == Deployment.vehicle_id)
        .where(Deployment.rollout_id == rollout_id, Deployment.wave == wave, Deployment.state == DeploymentState.PENDING)
        .order_by(Deployment.id)
    )
    return [(d, v) for d, v in session.execute(query)]


def waiting_vehicles(rollout_id: int | None = None, wave: int | None = None) -> ColumnElement[bool]:
    """A condition on vehicles: they have a deployment that has not begun."""
    query = select(Deployment.vehicle_id).where(Deployment.state == DeploymentState.PENDING)
    if rollout_id is not None:
        query = query.where(Deployment.rollout_id == rollout_id)
    if wave is not None:
        query = query.where(Deployment.wave == wave)
    return Vehicle.id.in_(query)


def unfinished_targets(session: Session, family: str) -> Sequence[Version]:
    """Versions that vehicles of the family are asked to run, or may be as soon as an operator says so."""
    asked_for = select(Rollout.version_id).where(Rollout.family == family, Rollout.state.in_(UNFINISHED))
    return session.scalars(select(Version).where(Version.id.in_(asked_for)).order_by(Version.id)).all()


def offered_vehicles(family: str, *, begun: bool) -> ColumnElement[bool]:
    """A condition on vehicles of the family: their wave is open and they have not begun; with ``begun``, nor ended."""
    state = Deployment.state.not_in(FINAL) if begun else Deployment.state == DeploymentState.PENDING
    query = (
        select(Deployment.vehicle_id)
        .join(Wave, (Wave.rollout_id == Deployment.rollout_id) & (Wave.ordinal == Deployment.wave))
        .where(state, Wave.state != WaveState.SCHEDULED)
    )
    return (Vehicle.family == family) & Vehicle.id.in_(query)


def unfinished_vehicles(rollout_id: int) -> ColumnElement[bool]:
    """A condition on vehicles: their deployment of this rollout is not over."""
    unfinished = (Deployment.rollout_id == rollout_id) & Deployment.state.not_in(FINAL)
    return Vehicle.id.in_(select(Deployment.vehicle_id).where(unfinished))


def abort_unfinished(session: Session, rollout_id: int, now: datetime) -> None:
    session.execute(
        update(Deployment)
        .where(Deployment.rollout_id == rollout_id, Deployment.state.not_in(FINAL))
        .values(state=DeploymentState.ABORTED, updated_at=now)
        .execution_options(synchronize_session=False)
    )


def abort_unfinished_of_vehicle(session: Session, vehicle_id: str, now: datetime) -> None:
    session.execute(
        update(Deployment)
        .where(Deployment.vehicle_id == vehicle_id, Deployment.state.not_in(FINAL))
        .values(state=DeploymentState.ABORTED, updated_at=now)
        .execution_options(synchronize_session=False)
    )


def add_minute(session: Session, rollout_id: int, minute: int, grown: BytesReceived) -> None:
    """Add bytes to a rollout's minute, whoever else is adding to it at this moment."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(RolloutMinute).values(
        rollout_id=rollout_id,
        minute=minute,
        metadata_bytes=grown.metadata,
        delta_bytes=grown.delta,
        full_bytes=grown.full,
    )
    names = ("metadata_bytes", "delta_bytes", "full_bytes")
    summed = {name: getattr(RolloutMinute, name) + row.excluded[name] for name in names}
    keys = [RolloutMinute.rollout_id, RolloutMinute.minute]
    session.execute(row.on_conflict_do_update(index_elements=keys, set_=summed))


def minutes(session: Session, rollout_id: int) -> Sequence[RolloutMinute]:
    query = select(RolloutMinute).where(RolloutMinute.rollout_id == rollout_id).order_by(RolloutMinute.minute)
    return session.scalars(query).all()


def received(session: Session, rollout_id: int) -> tuple[int, BytesReceived]:
    """Number of vehicles and the bytes they received."""
    query = select(
        func.count(),
        func.sum(Deployment.received_metadata),
        func.sum(Deployment.received_delta),
        func.sum(Deployment.received_full),
    ).where(Deployment.rollout_id == rollout_id)
    count, metadata, delta, full = session.execute(query).one()
    return count, BytesReceived(int(metadata or 0), int(delta or 0), int(full or 0))


def counterfactual_sums(session: Session, rollout_id: int) -> tuple[int, int, int]:
    """What the deployments that succeeded would have cost: float32 fulls, compressed fulls, bsdiff4 on float16.

    Without figures for its base, a vehicle would have had to take the whole file there too.
    """
    empty, pair = aliased(Counterfactual), aliased(Counterfactual)
    query = (
        select(
            func.sum(empty.float32_full_bytes),
            func.sum(empty.compressed_full_bytes),
            func.sum(func.coalesce(pair.bsdiff4_float16_bytes, empty.bsdiff4_float16_bytes)),
        )
        .select_from(Deployment)
        .join(Rollout, Rollout.id == Deployment.rollout_id)
        .join(empty, (empty.version_id == Rollout.version_id) & (empty.base_sha256 == ""))
        .outerjoin(pair, (pair.version_id == Rollout.version_id) & (pair.base_sha256 == Deployment.base_sha256))
        .where(Deployment.rollout_id == rollout_id, Deployment.state == DeploymentState.SUCCEEDED)
        # A vehicle that had the version already moved no bytes, and would have moved none in another way.
        .where(Deployment.received_delta + Deployment.received_full > 0)
    )
    first, second, third = session.execute(query).one()
    return int(first or 0), int(second or 0), int(third or 0)


def failures(session: Session, rollout_id: int) -> dict[str, int]:
    query = (
        select(Deployment.code, func.count())
        .where(Deployment.rollout_id == rollout_id, Deployment.state == DeploymentState.FAILED)
        .group_by(Deployment.code)
    )
    return {code or "unknown": count for code, count in session.execute(query)}
