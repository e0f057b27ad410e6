"""Which published versions signed metadata names, and which it is to name.

Vehicles look up what they are asked to run and what they pass on the way there, not what they run already. So a version is
needed if a rollout brings it, now or as soon as an operator says so, if a delta leads to it, and if it is the newest of its
family, which the next rollout brings.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from server.repositories.rollouts import UNFINISHED
from server.tables import Delta, DeltaState, Listing, Rollout, Version, VersionState

PUBLISHED = Version.state == VersionState.PUBLISHED


def unneeded(session: Session, family: str) -> Sequence[Version]:
    """Versions that are listed, and that nobody is to look up any more."""
    query = select(Version).where(PUBLISHED, Version.family == family, Version.listing == Listing.LISTED, ~_is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def leaving(session: Session) -> Sequence[Version]:
    """Versions that signed metadata is to forget."""
    query = select(Version).where(PUBLISHED, Version.listing == Listing.LEAVING, ~_is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def missing(session: Session) -> Sequence[Version]:
    """Versions that signed metadata is to name, and that are not known to be named."""
    query = select(Version).where(PUBLISHED, Version.listing.is_distinct_from(Listing.LISTED), _is_needed())
    return session.scalars(query.order_by(Version.id)).all()


def _is_needed() -> ColumnElement[bool]:
    newest = select(Version.family, func.max(Version.release_counter)).where(PUBLISHED).group_by(Version.family)
    brought = select(Rollout.version_id).where(Rollout.state.in_(UNFINISHED))
    passed = select(Delta.version_id).where(Delta.state.in_([DeltaState.QUEUED, DeltaState.PUBLISHED]))
    return tuple_(Version.family, Version.release_counter).in_(newest) | Version.id.in_(brought) | Version.id.in_(passed)
