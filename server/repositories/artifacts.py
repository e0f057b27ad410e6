"""Families, uploads, versions, deltas and what each version would have cost otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from server.tables import (
    Counterfactual,
    Delta,
    DeltaState,
    Family,
    Upload,
    Vehicle,
    VehicleState,
    Version,
    VersionState,
)


@dataclass(frozen=True, slots=True)
class DeltaRow:
    """A delta with the version it starts from."""

    delta: Delta
    base_version: str


def family(session: Session, name: str) -> Family | None:
    return session.get(Family, name)


def hold_family(session: Session, name: str) -> Family | None:
    """Until the transaction ends, nobody else numbers releases, asks for deltas or starts rollouts of this family."""
    return session.scalars(select(Family).where(Family.name == name).with_for_update()).one_or_none()


def families(session: Session, *, after: str, limit: int) -> Sequence[Family]:
    return session.scalars(select(Family).where(Family.name > after).order_by(Family.name).limit(limit)).all()


def upload(session: Session, upload_id: str) -> Upload | None:
    return session.get(Upload, upload_id)


def expired_uploads(session: Session, now: datetime, *, limit: int) -> Sequence[Upload]:
    """Past their time, and not what a version still waits to be made from."""
    needed = select(Version.upload_id).where(Version.state == VersionState.PROCESSING)
    return session.scalars(select(Upload).where(Upload.expires_at < now, Upload.id.not_in(needed)).limit(limit)).all()


def version(session: Session, family_name: str, number: str, *, lock: bool = False) -> Version | None:
    query = select(Version).where(Version.family == family_name, Version.version == number)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def version_by_id(session: Session, version_id: int) -> Version:
    return session.get_one(Version, version_id)


def version_by_content(session: Session, content_sha256: str | None) -> Version | None:
    if content_sha256 is None:
        return None
    query = select(Version).where(Version.content_sha256 == content_sha256, Version.state == VersionState.PUBLISHED)
    return session.scalars(query).one_or_none()


def versions(session: Session, family_name: str, *, before: int, limit: int) -> Sequence[Version]:
    """Newest first, by release counter."""
    query = select(Version).where(Version.family == family_name, Version.release_counter < before)
    return session.scalars(query.order_by(Version.release_counter.desc()).limit(limit)).all()


def next_release_counter(session: Session, family_name: str) -> int:
    """The caller holds the family, so that two releases never get one number."""
    highest = session.scalar(select(func.max(Version.release_counter)).where(Version.family == family_name))
    return (highest or 0) + 1


def published_before(session: Session, target: Version) -> Version | None:
    """The release that most vehicles are likely to come from: the one before."""
    query = select(Version).where(
        Version.family == target.family,
        Version.state == VersionState.PUBLISHED,
        Version.release_counter < target.release_counter,
    )
    return session.scalars(query.order_by(Version.release_counter.desc()).limit(1)).one_or_none()


def installed_histogram(session: Session, target: Version) -> dict[int, int]:
    """How many accepted vehicles run each older published version of the family, by version id."""
    query = (
        select(Version.id, func.count())
        .join(Vehicle, Vehicle.installed_sha256 == Version.content_sha256)
        .where(
            Vehicle.family == target.family,
            Vehicle.state == VehicleState.ACCEPTED,
            Version.family == target.family,
            Version.state == VersionState.PUBLISHED,
            Version.release_counter < target.release_counter,
        )
        .group_by(Version.id)
    )
    return {version_id: count for version_id, count in session.execute(query)}  # noqa: C416 - rows are not pairs to mypy


def delta_by_id(session: Session, delta_id: int) -> Delta:
    return session.get_one(Delta, delta_id)


def deltas_to(session: Session, version_ids: Iterable[int]) -> list[DeltaRow]:
    base = aliased(Version)
    query = select(Delta, base.version).join(base, base.id == Delta.base_id).where(Delta.version_id.in_(list(version_ids)))
    return [DeltaRow(delta, number) for delta, number in session.execute(query.order_by(base.release_counter.desc()))]


def published_delta(session: Session, *, base_sha256: str, version_id: int) -> Delta | None:
    query = (
        select(Delta)
        .join(Version, Version.id == Delta.base_id)
        .where(Delta.version_id == version_id, Delta.state == DeltaState.PUBLISHED, Version.content_sha256 == base_sha256)
    )
    return session.scalars(query).one_or_none()


def deltas_in_the_making(session: Session, version_id: int) -> int:
    query = select(func.count()).select_from(Delta).where(Delta.version_id == version_id, Delta.state == DeltaState.QUEUED)
    return session.scalar(query) or 0


def save_counterfactual(session: Session, row: Counterfactual) -> None:
    session.merge(row)
