"""Enrolment tokens, vehicles, their presence, and the revision by which API processes notice changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, insert, select, text, update
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from model_registry.contract.messages import Installed
from server.tables import EnrolmentToken, FleetRevision, Presence, Vehicle, VehicleState


@dataclass(frozen=True, slots=True)
class Seen:
    """What one check-in says that need not be written at once. Inferences count since the agent's installation."""

    vehicle_id: str
    seen_at: datetime
    sequence: int
    inferences_served: int
    inferences_failed: int


def add_tokens(session: Session, digests: Sequence[str], family: str, *, auto_accept: bool, now: datetime) -> None:
    rows = [{"sha256": d, "family": family, "auto_accept": auto_accept, "created_at": now} for d in digests]
    session.execute(insert(EnrolmentToken), rows)


def token(session: Session, sha256: str) -> EnrolmentToken | None:
    return session.get(EnrolmentToken, sha256)


def use_token(session: Session, sha256: str, vehicle_id: str, now: datetime) -> bool:
    """Spend a token. False: another request was first."""
    result = session.execute(
        update(EnrolmentToken)
        .where(EnrolmentToken.sha256 == sha256, EnrolmentToken.used_by.is_(None))
        .values(used_by=vehicle_id, used_at=now)
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


def vehicle(session: Session, vehicle_id: str, *, lock: bool = False) -> Vehicle | None:
    query = select(Vehicle).where(Vehicle.id == vehicle_id)
    return session.scalars(query.with_for_update() if lock else query).one_or_none()


def vehicles(
    session: Session, *, after: str, limit: int, family: str | None, state: str | None
) -> Sequence[tuple[Vehicle, Presence | None]]:
    query = select(Vehicle, Presence).outerjoin(Presence, Presence.vehicle_id == Vehicle.id).where(Vehicle.id > after)
    if family is not None:
        query = query.where(Vehicle.family == family)
    if state is not None:
        query = query.where(Vehicle.state == state)
    return [(v, p) for v, p in session.execute(query.order_by(Vehicle.id).limit(limit))]


def presence(session: Session, vehicle_id: str) -> Presence | None:
    return session.get(Presence, vehicle_id)


def forget_presence(session: Session, vehicle_id: str) -> None:
    session.execute(delete(Presence).where(Presence.vehicle_id == vehicle_id).execution_options(synchronize_session=False))


def accepted_of(session: Session, family: str) -> Sequence[Vehicle]:
    query = select(Vehicle).where(Vehicle.family == family, Vehicle.state == VehicleState.ACCEPTED)
    return session.scalars(query.order_by(Vehicle.id)).all()


def touch(session: Session, which: ColumnElement[bool]) -> None:
    """Make every API process look again at these vehicles.

    The counter's row stays locked until the transaction ends, so that revisions become visible in their order.
    """
    grown = update(FleetRevision).values(value=FleetRevision.value + 1).returning(FleetRevision.value)
    revision = session.execute(grown).scalar_one()
    session.execute(update(Vehicle).where(which).values(revision=revision).execution_options(synchronize_session=False))


def revision(session: Session) -> int:
    return session.execute(select(FleetRevision.value)).scalar_one()


def changed_since(session: Session, seen: int) -> Sequence[str]:
    return session.scalars(select(Vehicle.id).where(Vehicle.revision > seen)).all()


def save_installed(session: Session, vehicle_id: str, installed: Installed | None, sequence: int) -> bool:
    """Keep what a vehicle says it runs, unless a later message has said so already."""
    result = session.execute(
        update(Vehicle)
        .where(Vehicle.id == vehicle_id, Vehicle.installed_sequence < sequence)
        .values(
            installed_version=installed.version if installed else None,
            installed_sha256=installed.content_sha256 if installed else None,
            installed_counter=installed.release_counter if installed else None,
            installed_sequence=sequence,
        )
        .execution_options(synchronize_session=False)
    )
    return isinstance(result, CursorResult) and result.rowcount == 1


_COLUMNS = ("vehicle_id", "seen_at", "sequence", "inferences_served", "inferences_failed")
# One statement with arrays is several times faster than one per row; rows of vehicles that are gone fall out by the join.
_POSTGRESQL_UPSERT = text(
    """
    INSERT INTO presences (vehicle_id, seen_at, sequence, inferences_served, inferences_failed)
    SELECT s.* FROM unnest(
        CAST(:vehicle_id AS varchar[]), CAST(:seen_at AS timestamptz[]), CAST(:sequence AS bigint[]),
        CAST(:inferences_served AS bigint[]), CAST(:inferences_failed AS bigint[])
    ) AS s(vehicle_id, seen_at, sequence, inferences_served, inferences_failed)
    JOIN vehicles ON vehicles.id = s.vehicle_id
    ON CONFLICT (vehicle_id) DO UPDATE SET
        seen_at = excluded.seen_at, sequence = excluded.sequence,
        inferences_served = excluded.inferences_served, inferences_failed = excluded.inferences_failed
    WHERE presences.sequence < excluded.sequence
    """
)


def save_presences(session: Session, rows: Sequence[Seen]) -> None:
    """Write many at once, one row a vehicle. Sorted, so that two processes never wait for each other in a circle."""
    ordered = sorted(rows, key=lambda row: row.vehicle_id)
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_POSTGRESQL_UPSERT, {name: [getattr(row, name) for row in ordered] for name in _COLUMNS})
        return
    values = sqlite.insert(Presence)
    newer = {name: values.excluded[name] for name in _COLUMNS[1:]}
    upsert = values.on_conflict_do_update(
        index_elements=[Presence.vehicle_id], set_=newer, where=Presence.sequence < values.excluded.sequence
    )
    session.execute(upsert, [{name: getattr(row, name) for name in _COLUMNS} for row in ordered])
