"""What a vehicle runs next, and what it reports about it.

Reports say how many bytes were received since the deployment's start, so that a report that comes twice, late or out of order
adds nothing that was counted before. A deployment that has ended stays as it ended; its bytes still count.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from model_registry.contract.messages import Assignment, BytesReceived, DeploymentState, Installed, VehicleReport
from model_registry.contract.targets import FullTarget, full_path
from server.errors import NotFound
from server.repositories import artifacts, fleet, rollouts
from server.repositories.rollouts import ActiveDeployment
from server.services import deltas
from server.services.planning import DEFAULT_BOUNDS, Bounds
from server.tables import Deployment, Family, Listing, RolloutState, Vehicle, Version, WaveState

MAX_DEPLOYMENT_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SignedTarget:
    """What the director signs for a vehicle: the version, its target, the artifact's digest and length in bytes."""

    version_id: int
    target: FullTarget
    sha256: str
    length: int


def is_offered(active: ActiveDeployment) -> bool:
    """A vehicle that has begun may end what it began; one that has not waits for its wave and while the rollout is paused."""
    if active.deployment.state != DeploymentState.PENDING:
        return True
    return active.rollout_state is RolloutState.RUNNING and active.wave_state is not WaveState.SCHEDULED


def assignment(session: Session, vehicle: Vehicle, bounds: Bounds = DEFAULT_BOUNDS) -> Assignment | None:
    """What the vehicle is asked to run now, and the cheapest way there from what it runs."""
    active = rollouts.active_deployment(session, vehicle.id)
    if active is None or not is_offered(active):
        return None
    version = active.version
    return Assignment(
        deployment_id=str(active.deployment.id),
        target_path=full_path(version.family, version.version),
        content_sha256=_known(version.content_sha256),
        hops=deltas.hops(session, vehicle, version, bounds),
    )


def signed_target(session: Session, vehicle: Vehicle) -> SignedTarget | None:
    """What the director vouches for: what the vehicle is asked to run, else what it runs while signed metadata names that."""
    active = rollouts.active_deployment(session, vehicle.id)
    if active is not None and is_offered(active):
        return signed_version(active.version, session.get_one(Family, active.version.family))
    running = artifacts.version_by_content(session, vehicle.installed_sha256)
    if running is None or running.family != vehicle.family or running.listing != Listing.LISTED:
        return None
    return signed_version(running, session.get_one(Family, running.family))


def signed_version(version: Version, family: Family) -> SignedTarget:
    """A published version as both repositories sign it."""
    target = full_target(version, family, _known(version.content_sha256), version.content_bytes or 0)
    return SignedTarget(version.id, target, _known(version.full_sha256), version.full_bytes or 0)


def full_target(version: Version, family: Family, content_sha256: str, content_bytes: int) -> FullTarget:
    """A version as signed metadata names it, the same in both repositories."""
    return FullTarget(
        family=version.family,
        version=version.version,
        content_sha256=content_sha256,
        content_bytes=content_bytes,
        hardware_id=family.hardware_id,
        release_counter=version.release_counter,
    )


def _known(digest: str | None) -> str:
    if digest is None:
        raise RuntimeError("a version that is not published was taken for one that is")
    return digest


def ingest(session: Session, report: VehicleReport, now: datetime) -> None:
    """Apply a report once. The caller has checked its signature. Raises NotFound."""
    deployment = _deployment_of(session, report)
    if report.sequence <= deployment.sequence:
        return
    deployment.sequence = report.sequence
    _count_bytes(session, deployment, report.received, now)
    ended = _move_on(deployment, report)
    deployment.updated_at = now
    session.flush()
    note_installed(session, report.vehicle_id, report.installed, report.sequence, changed=ended)


def _deployment_of(session: Session, report: VehicleReport) -> Deployment:
    number = int(report.deployment_id) if report.deployment_id.isascii() and report.deployment_id.isdigit() else 0
    found = rollouts.deployment(session, number, report.vehicle_id) if 0 < number <= MAX_DEPLOYMENT_ID else None
    if found is None:
        raise NotFound(f"there is no deployment {report.deployment_id[:64]!r} of this vehicle", remedy="drop this report")
    return found


def growth(before: BytesReceived, after: BytesReceived) -> BytesReceived:
    """What has come since, by kind; never negative, whatever a vehicle says."""
    return BytesReceived(
        metadata=max(0, after.metadata - before.metadata),
        delta=max(0, after.delta - before.delta),
        full=max(0, after.full - before.full),
    )


def _count_bytes(session: Session, deployment: Deployment, received: BytesReceived, now: datetime) -> None:
    before = BytesReceived(deployment.received_metadata, deployment.received_delta, deployment.received_full)
    grown = growth(before, received)
    if not grown.total:
        return
    deployment.received_metadata += grown.metadata
    deployment.received_delta += grown.delta
    deployment.received_full += grown.full
    session.flush()
    rollouts.add_minute(session, deployment.rollout_id, int(now.timestamp()) // 60, grown)


def _move_on(deployment: Deployment, report: VehicleReport) -> bool:
    """Take over the reported state; True when it ended the deployment."""
    if DeploymentState(deployment.state).final:
        return False
    deployment.state = report.state
    failed = report.state is DeploymentState.FAILED
    deployment.code = (report.code or "unknown") if failed else None
    deployment.detail = report.detail if failed else None
    return report.state.final


def note_installed(
    session: Session, vehicle_id: str, installed: Installed | None, sequence: int, *, changed: bool = False
) -> None:
    """Keep what a vehicle says it runs, unless a later message has said so; ``changed``: its instruction changes anyway.

    Running a version is not having proven it: only the vehicle's report ends a deployment.
    """
    vehicle = fleet.vehicle(session, vehicle_id)
    if vehicle is None:
        return
    content_sha256 = installed.content_sha256 if installed else None
    if changed or vehicle.installed_sha256 != content_sha256:
        fleet.touch(session, Vehicle.id == vehicle_id)
    fleet.save_installed(session, vehicle_id, installed, sequence)
