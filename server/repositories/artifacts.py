"""Families, uploads, versions, deltas and what each version would have cost otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from server.tables import (
    Counterfactual,
    Delta,
    DeltaState,
    Family,
    Listing,
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
    base: Version


@dataclass(frozen=True, slots=True)
class Leg:
    """A published delta as a way's part: contents by digest, sizes in bytes, ``version`` where it leads to.

    ``listed``: signed metadata names that version.
    """

    base_sha256: str
    base_bytes: int
    content_sha256: str
    content_bytes: int
    version: str
    codec: str
    size_bytes: int
    listed: bool


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


def newest_published(session: Session, family_name: str) -> Version | None:
    query = select(Version).where(Version.family == family_name, Version.state == VersionState.PUBLISHED)
    return session.scalars(query.order_by(Version.release_counter.desc()).limit(1)).one_or_none()


def published_versions(session: Session, family_name: str) -> Sequence[Version]:
    """Newest first."""
    query = select(Version).where(Version.family == family_name, Version.state == VersionState.PUBLISHED)
    return session.scalars(query.order_by(Version.release_counter.desc())).all()


def known_content(session: Session, family_name: str, sha256: str | None) -> Version | None:
    """The newest published version with this content, or with this content before it got its name."""
    query = select(Version).where(
        Version.family == family_name,
        Version.state == VersionState.PUBLISHED,
        (Version.content_sha256 == sha256) | (Version.given_sha256 == sha256),
    )
    return session.scalars(query.order_by(Version.release_counter.desc()).limit(1)).one_or_none()


def installed_histogram(session: Session, target: Version) -> dict[str, int]:
    """How many accepted vehicles run each older published version of the family, by content digest, newest first."""
    query = (
        select(Version.content_sha256, func.count())
        .join(Vehicle, Vehicle.installed_sha256 == Version.content_sha256)
        .where(
            Vehicle.family == target.family,
            Vehicle.state == VehicleState.ACCEPTED,
            Version.family == target.family,
            Version.state == VersionState.PUBLISHED,
            Version.release_counter < target.release_counter,
        )
        .group_by(Version.content_sha256, Version.release_counter)
        .order_by(Version.release_counter.desc())
    )
    return {sha256: count for sha256, count in session.execute(query) if sha256 is not None}


def vehicles_by_content(session: Session, family_name: str) -> dict[str | None, int]:
    """How many accepted vehicles of the family run each content, published or not; None: nothing yet."""
    groups = (Vehicle.installed_sha256,)
    query = select(*groups, func.count()).where(Vehicle.family == family_name, Vehicle.state == VehicleState.ACCEPTED)
    return {sha256: count for sha256, count in session.execute(query.group_by(*groups))}  # noqa: C416 - rows are no pairs


def delta_by_id(session: Session, delta_id: int) -> Delta:
    return session.get_one(Delta, delta_id)


def deltas_to(session: Session, version_ids: Iterable[int]) -> list[DeltaRow]:
    base = aliased(Version)
    query = select(Delta, base).join(base, base.id == Delta.base_id).where(Delta.version_id.in_(list(version_ids)))
    return [DeltaRow(delta, found) for delta, found in session.execute(query.order_by(base.release_counter.desc()))]


def deltas_of(session: Session, family_name: str) -> list[tuple[Delta, Version, Version]]:
    """Every delta of the family, whatever its state, with its base and its result; newest result first, then newest base."""
    base, version = aliased(Version), aliased(Version)
    query = (
        select(Delta, base, version)
        .join(base, base.id == Delta.base_id)
        .join(version, version.id == Delta.version_id)
        .where(version.family == family_name)
        .order_by(version.release_counter.desc(), base.release_counter.desc())
    )
    return [(delta, one, two) for delta, one, two in session.execute(query)]


def delta_between(session: Session, family_name: str, base_number: str, number: str) -> Delta | None:
    base, version = aliased(Version), aliased(Version)
    query = (
        select(Delta)
        .join(base, base.id == Delta.base_id)
        .join(version, version.id == Delta.version_id)
        .where(version.family == family_name, base.version == base_number, version.version == number)
    )
    return session.scalars(query).one_or_none()


def legs(session: Session, family_name: str, *, counters: tuple[int, int]) -> list[Leg]:
    """Published deltas that start and end between two release counters, both included."""
    base, version = aliased(Version), aliased(Version)
    query = (
        select(
            base.content_sha256,
            base.content_bytes,
            version.content_sha256,
            version.content_bytes,
            version.version,
            Delta.codec,
            Delta.size_bytes,
            version.listing == Listing.LISTED,
        )
        .join(base, base.id == Delta.base_id)
        .join(version, version.id == Delta.version_id)
        .where(
            Delta.state == DeltaState.PUBLISHED,
            version.family == family_name,
            base.release_counter >= counters[0],
            version.release_counter <= counters[1],
        )
    )
    # What may be null in a row before its publication is not null after it.
    rows: Iterable[Any] = session.execute(query)
    return [Leg(*row) for row in rows]


def any_in_the_making(session: Session, family_name: str) -> bool:
    """Whether a delta of the family is still to be made."""
    query = select(Delta.id).join(Version, Version.id == Delta.version_id)
    query = query.where(Version.family == family_name, Delta.state == DeltaState.QUEUED).limit(1)
    return session.scalars(query).one_or_none() is not None


def retiring(session: Session) -> Sequence[tuple[Delta, Version, Version]]:
    """Deltas that signed metadata is still to forget, with base and result."""
    base, version = aliased(Version), aliased(Version)
    query = (
        select(Delta, base, version)
        .join(base, base.id == Delta.base_id)
        .join(version, version.id == Delta.version_id)
        .where(Delta.state == DeltaState.RETIRING)
        .order_by(Delta.id)
    )
    return [(delta, one, two) for delta, one, two in session.execute(query)]


def retired_with_file(session: Session, before: datetime, *, limit: int) -> Sequence[Delta]:
    """Deltas that were retired ``before`` a time and whose file is still stored."""
    query = select(Delta).where(Delta.state == DeltaState.RETIRED, Delta.sha256.is_not(None), Delta.retired_at < before)
    return session.scalars(query.order_by(Delta.id).limit(limit).with_for_update()).all()


def deltas_in_the_making(session: Session, version_id: int) -> int:
    query = select(func.count()).select_from(Delta).where(Delta.version_id == version_id, Delta.state == DeltaState.QUEUED)
    return session.scalar(query) or 0


def counterfactual(session: Session, version_id: int, base_sha256: str) -> Counterfactual | None:
    return session.get(Counterfactual, (version_id, base_sha256))


def save_counterfactual(session: Session, row: Counterfactual) -> None:
    session.merge(row)
