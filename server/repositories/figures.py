"""Counts over the whole installation, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.repositories import jobs
from server.tables import Rollout, RolloutMinute, Vehicle


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts by label values; bytes by kind."""

    jobs: dict[tuple[str, ...], int]
    vehicles: dict[tuple[str, ...], int]
    rollouts: dict[tuple[str, ...], int]
    received_bytes: dict[str, int]


def of_installation(session: Session) -> Figures:
    metadata, delta, full = session.execute(
        select(func.sum(RolloutMinute.metadata_bytes), func.sum(RolloutMinute.delta_bytes), func.sum(RolloutMinute.full_bytes))
    ).one()
    return Figures(
        jobs={key: count for key, count in jobs.counts(session).items()},  # noqa: C416 - the keys' type is wider here
        vehicles={(state,): n for state, n in session.execute(select(Vehicle.state, func.count()).group_by(Vehicle.state))},
        rollouts={(state,): n for state, n in session.execute(select(Rollout.state, func.count()).group_by(Rollout.state))},
        received_bytes={"metadata": int(metadata or 0), "delta": int(delta or 0), "full": int(full or 0)},
    )
