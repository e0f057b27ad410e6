"""Rollouts carried out: creating them, operators' words, and the tick that opens one wave after another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from model_registry.contract.messages import DeploymentState
from server.errors import Conflict, NotFound
from server.repositories import artifacts, fleet, rollouts
from server.services import deltas
from server.services.planning import DEFAULT_BOUNDS, Bounds
from server.services.rollouts import (
    CloseWave,
    Finish,
    Halt,
    OpenWave,
    RolloutEvent,
    RolloutView,
    Wait,
    WaveView,
    assign_waves,
    check_waves,
    decide,
    next_state,
)
from server.tables import Deployment, Listing, Rollout, RolloutState, Vehicle, Version, VersionState, Wave, WaveState


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """What an operator asks for; percentages from 0 to 100, ``waves`` cumulative."""

    family: str
    version: str
    waves: tuple[float, ...]
    success_threshold_percent: float
    error_threshold_percent: float
    min_executed: int


def create(session: Session, plan: RolloutPlan, now: datetime) -> Rollout:
    """A draft. Raises InvalidRequest, NotFound, Conflict."""
    check_waves(plan.waves)
    version = artifacts.version(session, plan.family, plan.version)
    if version is None:
        raise NotFound(f"there is no version {plan.version} of {plan.family}", remedy="publish it first")
    if version.state != VersionState.PUBLISHED:
        raise Conflict(f"version {plan.version} of {plan.family} is {version.state}, not published", remedy="wait, or look why")
    rollout = Rollout(
        family=plan.family,
        version_id=version.id,
        state=RolloutState.DRAFT,
        success_threshold_percent=plan.success_threshold_percent,
        error_threshold_percent=plan.error_threshold_percent,
        min_executed=plan.min_executed,
        created_at=now,
    )
    session.add(rollout)
    session.flush()
    for ordinal, percent in enumerate(plan.waves):
        session.add(Wave(rollout_id=rollout.id, ordinal=ordinal, percent=percent, state=WaveState.SCHEDULED))
    session.flush()
    return rollout


def tell(
    session: Session,
    rollout_id: int,
    event: RolloutEvent,
    *,
    delta_bases: int,
    bounds: Bounds = DEFAULT_BOUNDS,
    now: datetime,
) -> Rollout:
    """Carry out an operator's word. Raises NotFound, WrongState, Conflict."""
    rollout = rollouts.rollout(session, rollout_id, lock=True)
    if rollout is None:
        raise NotFound(f"there is no rollout {rollout_id}")
    state = next_state(RolloutState(rollout.state), event)
    match event:
        case RolloutEvent.START:
            _start(session, rollout, now=now)
            version = artifacts.version_by_id(session, rollout.version_id)
            deltas.plan(session, version, limit=delta_bases, bounds=bounds, now=now)
        case RolloutEvent.RESUME:
            _pardon(session, rollout)
        case RolloutEvent.ABORT:
            fleet.touch(session, rollouts.unfinished_vehicles(rollout.id))
            rollouts.abort_unfinished(session, rollout.id, now)
            rollout.finished_at = now
        case _:
            pass
    rollout.state = state
    session.flush()
    if event in (RolloutEvent.PAUSE, RolloutEvent.RESUME):
        fleet.touch(session, rollouts.waiting_vehicles(rollout.id))
    return rollout


def _start(session: Session, rollout: Rollout, *, now: datetime) -> None:
    """Fix who takes part: accepted vehicles of the family that neither have the version nor a later release."""
    artifacts.hold_family(session, rollout.family)
    other = rollouts.active_of(session, rollout.family)
    if other is not None:
        raise Conflict(f"rollout {other.id} of {rollout.family} is {other.state}", remedy="let it finish, or abort it first")
    version = artifacts.version_by_id(session, rollout.version_id)
    vehicles = [v for v in fleet.accepted_of(session, rollout.family) if _wants(v, version)]
    if not vehicles:
        raise Conflict(
            f"no accepted vehicle of {rollout.family} needs version {version.version}",
            remedy="enrol and accept vehicles first; those that run it or a later release take no part",
        )
    percents = [wave.percent for wave in rollouts.waves(session, rollout.id)]
    for ordinal, members in enumerate(assign_waves([v.id for v in vehicles], percents, seed=str(rollout.id))):
        session.add_all([_deployment(rollout, vehicle_id, ordinal, now) for vehicle_id in members])
    rollout.started_at = now
    session.flush()


def _wants(vehicle: Vehicle, version: Version) -> bool:
    later = vehicle.installed_counter is not None and vehicle.installed_counter > version.release_counter
    return vehicle.installed_sha256 != version.content_sha256 and not later


def _deployment(rollout: Rollout, vehicle_id: str, wave: int, now: datetime) -> Deployment:
    return Deployment(
        rollout_id=rollout.id,
        vehicle_id=vehicle_id,
        wave=wave,
        state=DeploymentState.PENDING,
        created_at=now,
        updated_at=now,
    )


def _pardon(session: Session, rollout: Rollout) -> None:
    """An operator has seen the failures so far: they no longer halt the rollout."""
    if rollout.halted_because is None:
        return
    rollout.halted_because = None
    counts = rollouts.counts(session, rollout.id)
    for wave in rollouts.waves(session, rollout.id):
        if wave.ordinal in counts:
            wave.pardoned_failed = counts[wave.ordinal].failed
            wave.pardoned_executed = counts[wave.ordinal].failed + counts[wave.ordinal].succeeded


def tick(session: Session, rollout_id: int, now: datetime, bounds: Bounds = DEFAULT_BOUNDS) -> None:
    """Do everything that is due. The rollout's row is locked, so several workers may tick."""
    rollout = rollouts.rollout(session, rollout_id, lock=True)
    if rollout is None:
        return
    # Every decision but "wait" uses up a wave's state or the rollout's, so this ends.
    while not isinstance(decision := decide(view(session, rollout)), Wait):
        match decision:
            case Halt(because):
                rollout.halted_because = because
                rollout.state = next_state(RolloutState(rollout.state), RolloutEvent.HALT)
                fleet.touch(session, rollouts.waiting_vehicles(rollout.id))
            case CloseWave(ordinal):
                wave = session.get_one(Wave, (rollout.id, ordinal))
                wave.state, wave.done_at = WaveState.DONE, now
            case OpenWave(ordinal):
                _open(session, rollout, ordinal, now, bounds)
            case Finish():
                rollout.state, rollout.finished_at = next_state(RolloutState(rollout.state), RolloutEvent.FINISH), now
        session.flush()


def waiting_until(session: Session, rollout: Rollout) -> str | None:
    """What must be before the next wave opens, besides what its vehicles do."""
    decision = decide(view(session, rollout)) if rollout.state == RolloutState.RUNNING else None
    return decision.until if isinstance(decision, Wait) else None


def view(session: Session, rollout: Rollout) -> RolloutView:
    """The rollout as ``decide`` takes it."""
    counts = rollouts.counts(session, rollout.id)
    return RolloutView(
        state=RolloutState(rollout.state),
        success_threshold_percent=rollout.success_threshold_percent,
        error_threshold_percent=rollout.error_threshold_percent,
        min_executed=rollout.min_executed,
        waves=tuple(
            WaveView(
                wave.ordinal,
                WaveState(wave.state),
                counts.get(wave.ordinal, rollouts.Counts()),
                wave.pardoned_executed,
                wave.pardoned_failed,
            )
            for wave in rollouts.waves(session, rollout.id)
        ),
        deltas_in_the_making=artifacts.deltas_in_the_making(session, rollout.version_id) > 0,
        is_listed=artifacts.version_by_id(session, rollout.version_id).listing == Listing.LISTED,
    )


def _open(session: Session, rollout: Rollout, ordinal: int, now: datetime, bounds: Bounds) -> None:
    """Note what each vehicle starts from, and have it offered the version at its next check-in."""
    fleet.touch(session, rollouts.waiting_vehicles(rollout.id, ordinal))
    members = rollouts.in_wave(session, rollout.id, ordinal)
    for deployment, vehicle in members:
        deployment.base_version, deployment.base_sha256 = vehicle.installed_version, vehicle.installed_sha256 or ""
        deployment.updated_at = now
    bases = [vehicle.installed_sha256 for _, vehicle in members if vehicle.installed_sha256]
    deltas.note_costs(session, artifacts.version_by_id(session, rollout.version_id), bases, bounds)
    wave = session.get_one(Wave, (rollout.id, ordinal))
    wave.state, wave.opened_at = WaveState.OPEN, now
