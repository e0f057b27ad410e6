"""The job table as a queue: asked for by key, claimed under a lease, given back by death."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from server.tables import Job, JobKind, JobState


def job(session: Session, job_id: int) -> Job | None:
    return session.get(Job, job_id)


def request(session: Session, kind: JobKind, key: str, payload: dict[str, Any], now: datetime) -> Job:
    """The job of this key: the one that is queued or running, or a fresh start of one that has ended."""
    found = session.scalars(select(Job).where(Job.key == key).with_for_update()).one_or_none()
    if found is None:
        found = Job(
            kind=kind, key=key, payload=payload, state=JobState.QUEUED, progress=0.0, step="", attempts=0, created_at=now
        )
        session.add(found)
    elif found.state in (JobState.FAILED, JobState.SUCCEEDED):
        found.state, found.payload, found.attempts, found.progress, found.step = JobState.QUEUED, payload, 0, 0.0, ""
        found.error = found.error_code = found.finished_at = found.lease_owner = found.lease_until = None
    session.flush()
    return found


def _claimable(now: datetime) -> ColumnElement[bool]:
    return or_(Job.state == JobState.QUEUED, and_(Job.state == JobState.RUNNING, Job.lease_until < now))


def any_claimable(session: Session, now: datetime) -> bool:
    """A look that takes no lock, so that idle workers do not disturb writers."""
    return session.scalars(select(Job.id).where(_claimable(now)).limit(1)).one_or_none() is not None


def claim(session: Session, owner: str, now: datetime, lease_until: datetime) -> Job | None:
    """Take the oldest job that waits or whose worker died, passing over those that another worker is just taking."""
    query = select(Job).where(_claimable(now)).order_by(Job.id).limit(1).with_for_update(skip_locked=True)
    found = session.scalars(query).one_or_none()
    if found is None:
        return None
    taken = session.execute(
        update(Job)
        .where(Job.id == found.id, Job.state == found.state, Job.attempts == found.attempts)
        .values(state=JobState.RUNNING, lease_owner=owner, lease_until=lease_until, attempts=found.attempts + 1)
        .execution_options(synchronize_session=False)
    )
    if not _hit(taken):
        return None
    session.refresh(found)
    return found


def renew(session: Session, claimed: Job, lease_until: datetime, progress: float, step: str) -> bool:
    """Say that the job is alive and how far it is. False: it is no longer this worker's."""
    values = {"lease_until": lease_until, "progress": min(max(progress, 0.0), 1.0), "step": step[:128]}
    return _hit(session.execute(update(Job).where(_still_mine(claimed)).values(**values)))


def remember(session: Session, claimed: Job, payload: dict[str, Any]) -> None:
    """Keep a choice that another attempt must not make anew."""
    session.execute(update(Job).where(_still_mine(claimed)).values(payload=payload))


def finish(
    session: Session, claimed: Job, state: JobState, now: datetime, *, code: str | None = None, error: str | None = None
) -> bool:
    """End a claim. False: the job is no longer this worker's, and nothing it did may count."""
    values: dict[str, Any] = {"state": state, "error_code": code, "error": error, "lease_owner": None, "lease_until": None}
    if state is JobState.SUCCEEDED:
        values |= {"progress": 1.0, "step": ""}
    if state is JobState.QUEUED:
        values["attempts"] = claimed.attempts - 1  # given back, not failed
    else:
        values["finished_at"] = now
    return _hit(session.execute(update(Job).where(_still_mine(claimed)).values(**values)))


def _still_mine(claimed: Job) -> ColumnElement[bool]:
    return and_(
        Job.id == claimed.id,
        Job.state == JobState.RUNNING,
        Job.lease_owner == claimed.lease_owner,
        Job.attempts == claimed.attempts,
    )


def _hit(result: object) -> bool:
    return isinstance(result, CursorResult) and result.rowcount == 1


def counts(session: Session) -> dict[tuple[str, str], int]:
    """How many jobs there are, by kind and state."""
    query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
    return {(kind, state): count for kind, state, count in session.execute(query)}
