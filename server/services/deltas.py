"""Which deltas to make, and which of them to keep.

Made: from what the fleet runs, most vehicles first, and from the release before, which new vehicles may leave the factory
with. Kept: those smaller than the full artifact, because another one would cost a vehicle more bytes and more work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from server.repositories import artifacts, fleet, jobs, rollouts
from server.tables import Counterfactual, Delta, DeltaState, JobKind, Vehicle, Version


@dataclass(frozen=True, slots=True)
class MadeDelta:
    """What a delta job found out, in bytes where not named otherwise."""

    codec: str
    sha256: str
    size_bytes: int
    float32_full_bytes: int
    compressed_full_bytes: int
    bsdiff4_float16_bytes: int


def choose_bases(installed: Mapping[int, int], previous: int | None, limit: int) -> list[int]:
    """Version ids to make deltas from, at most ``limit``: by number of vehicles, the previous release in any case."""
    by_vehicles = sorted(installed, key=lambda base: (-installed[base], -base))
    if previous is None:
        return by_vehicles[:limit]
    return [previous, *[base for base in by_vehicles if base != previous]][:limit]


def worth_keeping(delta_bytes: int, full_bytes: int) -> bool:
    """Whether a vehicle is better off with the delta."""
    return delta_bytes < full_bytes


def plan(session: Session, target: Version, *, limit: int, now: datetime) -> None:
    """Ask for every chosen delta that neither exists nor is in the making."""
    artifacts.hold_family(session, target.family)
    previous = artifacts.published_before(session, target)
    bases = choose_bases(artifacts.installed_histogram(session, target), previous.id if previous else None, limit)
    known = {row.delta.base_id: row.delta for row in artifacts.deltas_to(session, [target.id])}
    for base_id in bases:
        delta = known.get(base_id)
        if delta is not None and delta.state != DeltaState.FAILED:
            continue
        if delta is None:
            delta = Delta(base_id=base_id, version_id=target.id, state=DeltaState.QUEUED, created_at=now)
            session.add(delta)
        delta.state = DeltaState.QUEUED
        session.flush()
        delta.job_id = jobs.request(session, JobKind.DELTA, f"delta:{base_id}-{target.id}", {"delta_id": delta.id}, now).id


def finish(session: Session, delta: Delta, made: MadeDelta, *, published: bool) -> None:
    """Enter a delta that was made, and signed if ``published``; vehicles that wait on its base are looked at again."""
    delta.state = DeltaState.PUBLISHED if published else DeltaState.DROPPED
    delta.codec, delta.sha256, delta.size_bytes = made.codec, made.sha256, made.size_bytes
    base = artifacts.version_by_id(session, delta.base_id)
    artifacts.save_counterfactual(
        session,
        Counterfactual(
            version_id=delta.version_id,
            base_sha256=base.content_sha256,
            float32_full_bytes=made.float32_full_bytes,
            compressed_full_bytes=made.compressed_full_bytes,
            bsdiff4_float16_bytes=made.bsdiff4_float16_bytes,
        ),
    )
    session.flush()
    if published:
        fleet.touch(session, (Vehicle.installed_sha256 == base.content_sha256) & rollouts.waiting_vehicles())


def fail(delta: Delta) -> None:
    """Nobody makes it; its vehicles take the full artifact."""
    delta.state = DeltaState.FAILED
