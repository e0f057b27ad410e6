"""Operators run the fleet: enrolment tokens, vehicles, rollouts, bytes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi import Request as HttpRequest
from sqlalchemy.orm import Session

from model_registry.contract.messages import BytesReceived
from server.api.auth import Role, needs
from server.api.checkins import CheckIns
from server.api.pages import Cursor, Limit, cursor_number, cursor_text, page
from server.api.parts import TheRegistry
from server.api.schemas import (
    BandwidthAnswer,
    CounterfactualsAnswer,
    DeploymentAnswer,
    FailureAnswer,
    InstalledAnswer,
    MinuteAnswer,
    Name,
    Page,
    ReceivedAnswer,
    RolloutAnswer,
    RolloutRequest,
    TokensAnswer,
    TokensRequest,
    VehicleAnswer,
    VehicleDetail,
    WaveAnswer,
)
from server.bootstrap import Registry
from server.errors import NotFound
from server.repositories import artifacts, fleet, rollouts
from server.services import bandwidth, enrolment, waves
from server.services.rollouts import RolloutEvent, allowed_events
from server.services.waves import RolloutPlan
from server.tables import Deployment, Presence, Rollout, RolloutState, Vehicle, VehicleState

router = APIRouter(prefix="/api/v1", tags=["fleet"])
MAX_INTEGER = 2**31 - 1
RolloutId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
VehicleId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
LATEST = 20


@router.post("/enrolment-tokens", status_code=201, dependencies=[needs(Role.FLEET_OPERATOR)])
def make_tokens(wanted: TokensRequest, registry: TheRegistry) -> TokensAnswer:
    """One-time tokens for vehicles of a family."""
    with registry.database.writing() as session:
        tokens = enrolment.make_tokens(
            session, count=wanted.count, family=wanted.family, auto_accept=wanted.auto_accept, now=registry.clock()
        )
    return TokensAnswer(tokens=tokens)


@router.get("/vehicles", dependencies=[needs(Role.VIEWER)])
def list_vehicles(
    registry: TheRegistry,
    limit: Limit = 100,
    cursor: Cursor = None,
    family: Annotated[Name | None, Query()] = None,
    state: Annotated[VehicleState | None, Query()] = None,
) -> Page[VehicleAnswer]:
    """Vehicles by their id."""
    with registry.database.reading() as session:
        rows = fleet.vehicles(session, after=cursor_text(cursor), limit=limit + 1, family=family, state=state)
    return page(rows, limit, lambda row: _vehicle_answer(*row), lambda row: row[0].id)


@router.get("/vehicles/{vehicle_id}", dependencies=[needs(Role.VIEWER)])
def show_vehicle(vehicle_id: VehicleId, registry: TheRegistry) -> VehicleDetail:
    """One vehicle and its latest deployments."""
    with registry.database.reading() as session:
        vehicle = fleet.vehicle(session, vehicle_id)
        if vehicle is None:
            raise NotFound(f"there is no vehicle {vehicle_id}")
        answer = _vehicle_answer(vehicle, fleet.presence(session, vehicle_id))
        found = rollouts.deployments_of_vehicle(session, vehicle_id, limit=LATEST)
    return VehicleDetail(**answer.model_dump(), deployments=[_deployment_answer(row) for row in found])


@router.post("/vehicles/{vehicle_id}/accept", dependencies=[needs(Role.FLEET_OPERATOR)])
def accept(vehicle_id: VehicleId, registry: TheRegistry, request: HttpRequest) -> VehicleAnswer:
    """Let the vehicle take part."""
    return _settle(registry, request, vehicle_id, VehicleState.ACCEPTED)


@router.post("/vehicles/{vehicle_id}/reject", dependencies=[needs(Role.FLEET_OPERATOR)])
def reject(vehicle_id: VehicleId, registry: TheRegistry, request: HttpRequest) -> VehicleAnswer:
    """Turn the vehicle away. Its name can then be enrolled anew."""
    return _settle(registry, request, vehicle_id, VehicleState.REJECTED)


def _settle(registry: Registry, request: HttpRequest, vehicle_id: str, state: VehicleState) -> VehicleAnswer:
    checkins: CheckIns = request.app.state.device.checkins
    with registry.database.writing() as session:
        vehicle = enrolment.settle(session, vehicle_id, state, registry.clock())
        seen = fleet.presence(session, vehicle_id)
    checkins.forget(vehicle_id)
    return _vehicle_answer(vehicle, seen)


def _vehicle_answer(row: Vehicle, seen: Presence | None) -> VehicleAnswer:
    installed = None
    if row.installed_version is not None and row.installed_sha256 is not None:
        installed = InstalledAnswer(
            version=row.installed_version,
            content_sha256=row.installed_sha256,
            release_counter=row.installed_counter,
        )
    return VehicleAnswer(
        id=row.id,
        family=row.family,
        hardware_id=row.hardware_id,
        state=row.state,
        keyid=row.keyid,
        enrolled_at=row.enrolled_at,
        installed=installed,
        seen_at=seen.seen_at if seen else None,
        inferences_served=seen.inferences_served if seen else 0,
        inferences_failed=seen.inferences_failed if seen else 0,
    )


@router.post("/rollouts", status_code=201, dependencies=[needs(Role.FLEET_OPERATOR)])
def create_rollout(wanted: RolloutRequest, registry: TheRegistry) -> RolloutAnswer:
    """A draft of a rollout; nothing happens before it is started."""
    plan = RolloutPlan(
        family=wanted.family,
        version=wanted.version,
        waves=tuple(wanted.waves),
        success_threshold_percent=wanted.success_threshold_percent,
        error_threshold_percent=wanted.error_threshold_percent,
        min_executed=wanted.min_executed,
    )
    with registry.database.writing() as session:
        row = waves.create(session, plan, registry.clock())
        return _rollout_answer(session, row, wanted.version)


@router.get("/rollouts", dependencies=[needs(Role.VIEWER)])
def list_rollouts(
    registry: TheRegistry, limit: Limit = 100, cursor: Cursor = None, family: Annotated[Name | None, Query()] = None
) -> Page[RolloutAnswer]:
    """Rollouts, newest first."""
    with registry.database.reading() as session:
        rows = rollouts.rollouts(session, before=cursor_number(cursor, MAX_INTEGER), limit=limit + 1, family=family)
        return page(rows, limit, lambda row: _rollout_answer(session, *row), lambda row: str(row[0].id))


@router.get("/rollouts/{rollout_id}", dependencies=[needs(Role.VIEWER)])
def show_rollout(rollout_id: RolloutId, registry: TheRegistry) -> RolloutAnswer:
    """One rollout and its waves."""
    with registry.database.reading() as session:
        return _rollout_answer(session, _found(session, rollout_id))


@router.get("/rollouts/{rollout_id}/deployments", dependencies=[needs(Role.VIEWER)])
def list_deployments(
    rollout_id: RolloutId, registry: TheRegistry, limit: Limit = 100, cursor: Cursor = None
) -> Page[DeploymentAnswer]:
    """Each vehicle's attempt."""
    with registry.database.reading() as session:
        _found(session, rollout_id)
        rows = rollouts.deployments(session, rollout_id, after=cursor_number(cursor, 0), limit=limit + 1)
    return page(rows, limit, _deployment_answer, lambda row: str(row.id))


@router.get("/rollouts/{rollout_id}/bandwidth", dependencies=[needs(Role.VIEWER)])
def show_bandwidth(rollout_id: RolloutId, registry: TheRegistry) -> BandwidthAnswer:
    """What the rollout cost in bytes."""
    with registry.database.reading() as session:
        found = bandwidth.of_rollout(session, rollout_id)
    return BandwidthAnswer(
        rollout_id=found.rollout_id,
        vehicles=found.vehicles,
        received=_received(found.received),
        minutes=[MinuteAnswer(minute=m.minute, **_received(m.received).model_dump()) for m in found.minutes],
        counterfactuals=CounterfactualsAnswer(
            float32_full=found.counterfactuals.float32_full,
            compressed_full=found.counterfactuals.compressed_full,
            bsdiff4_float16=found.counterfactuals.bsdiff4_float16,
        ),
        failures=[FailureAnswer(code=code, count=count) for code, count in sorted(found.failures.items())],
    )


@router.post("/rollouts/{rollout_id}/{action}", dependencies=[needs(Role.FLEET_OPERATOR)])
def tell_rollout(rollout_id: RolloutId, action: str, registry: TheRegistry) -> RolloutAnswer:
    """Tell a rollout to `start`, `pause`, `resume` or `abort`."""
    words = [event for state in RolloutState for event in allowed_events(state)]
    if action not in words:
        raise NotFound(f"a rollout does not understand {action[:32]!r}", remedy=f"say {', '.join(sorted(set(words)))}")
    with registry.database.writing() as session:
        row = waves.tell(
            session,
            rollout_id,
            RolloutEvent(action),
            delta_bases=registry.settings.delta_bases,
            bounds=registry.bounds,
            now=registry.clock(),
        )
        return _rollout_answer(session, row)


def _found(session: Session, rollout_id: int) -> Rollout:
    row = rollouts.rollout(session, rollout_id)
    if row is None:
        raise NotFound(f"there is no rollout {rollout_id}")
    return row


def _rollout_answer(session: Session, row: Rollout, version: str | None = None) -> RolloutAnswer:
    counts = rollouts.counts(session, row.id)
    return RolloutAnswer(
        id=row.id,
        family=row.family,
        version=version or artifacts.version_by_id(session, row.version_id).version,
        state=row.state,
        success_threshold_percent=row.success_threshold_percent,
        error_threshold_percent=row.error_threshold_percent,
        min_executed=row.min_executed,
        halted_because=row.halted_because,
        waiting_until=waves.waiting_until(session, row),
        waves=[
            WaveAnswer(
                number=wave.ordinal + 1,
                percent=wave.percent,
                state=wave.state,
                vehicles=count.total,
                succeeded=count.succeeded,
                failed=count.failed,
                aborted=count.aborted,
                opened_at=wave.opened_at,
                done_at=wave.done_at,
            )
            for wave in rollouts.waves(session, row.id)
            for count in [counts.get(wave.ordinal, rollouts.Counts())]
        ],
        vehicles=sum(count.total for count in counts.values()),
        succeeded=sum(count.succeeded for count in counts.values()),
        failed=sum(count.failed for count in counts.values()),
        aborted=sum(count.aborted for count in counts.values()),
        actions=[event.value for event in allowed_events(RolloutState(row.state))],
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _deployment_answer(row: Deployment) -> DeploymentAnswer:
    received = BytesReceived(row.received_metadata, row.received_delta, row.received_full)
    return DeploymentAnswer(
        id=row.id,
        rollout_id=row.rollout_id,
        vehicle_id=row.vehicle_id,
        wave=row.wave + 1,
        state=row.state,
        code=row.code,
        detail=row.detail,
        base_version=row.base_version,
        received=_received(received),
        updated_at=row.updated_at,
    )


def _received(received: BytesReceived) -> ReceivedAnswer:
    return ReceivedAnswer(metadata=received.metadata, delta=received.delta, full=received.full)
