"""Which published versions signed metadata names, and which it is to name.

Vehicles look up what they are asked to run and what they pass on the way there, not what they run already. So a version is
needed if a rollout brings it, now or as soon as an operator says so, if a delta leads to it, and if it is the newest of its
family, which the next rollout brings.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from server.repositories.rollouts import UNFINISHED
from server.tables import Delta, DeltaState, Listing, Rollout, Version


def unneeded(session: Session, family: str) -> Sequence[Version]:
    """Versions that are listed, and that nobody is to look up any more."""
    query = select(Version).where(Version.family == family, Version.listing == Listing.LISTED, ~_is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def leaving(session: Session) -> Sequence[Version]:
    """Versions that signed metadata is to forget."""
    query = select(Version).where(Version.listing == Listing.LEAVING, ~_is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def missing(session: Session) -> Sequence[Version]:
    """Versions that signed metadata is to name again."""
    query = select(Version).where(Version.listing.in_([Listing.LEAVING, Listing.UNLISTED]), _is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def _is_needed() -> ColumnElement[bool]:
    other = aliased(Version)
    newest = select(func.max(other.release_counter)).where(other.family == Version.family, other.listing.is_not(None))
    brought = select(Rollout.version_id).where(Rollout.state.in_(UNFINISHED))
    passed = select(Delta.version_id).where(Delta.state.in_([DeltaState.QUEUED, DeltaState.PUBLISHED]))
    return (Version.release_counter == newest.scalar_subquery()) | Version.id.in_(brought) | Version.id.in_(passed)
