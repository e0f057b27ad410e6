"""The director's signed metadata by vehicle and version number."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from server.tables import DirectorMetadata

KEPT = 2


def latest(session: Session, vehicle_id: str) -> DirectorMetadata | None:
    query = select(DirectorMetadata).where(DirectorMetadata.vehicle_id == vehicle_id)
    return session.scalars(query.order_by(DirectorMetadata.version.desc()).limit(1)).one_or_none()


def numbered(session: Session, vehicle_id: str, version: int) -> DirectorMetadata | None:
    return session.get(DirectorMetadata, (vehicle_id, version))


def add(session: Session, row: DirectorMetadata) -> None:
    """Add the next version and forget all but the last two. A primary key clash says that another process was first."""
    session.add(row)
    old = (DirectorMetadata.vehicle_id == row.vehicle_id) & (DirectorMetadata.version <= row.version - KEPT)
    session.execute(delete(DirectorMetadata).where(old).execution_options(synchronize_session=False))
    session.flush()
