"""What a rollout cost in bytes, minute by minute, and what other ways would have cost."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from model_registry.contract.messages import BytesReceived
from server.errors import NotFound
from server.repositories import rollouts


@dataclass(frozen=True, slots=True)
class Minute:
    """Bytes received within one minute, which began at ``minute`` (UTC)."""

    minute: datetime
    received: BytesReceived


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Bytes that the deployments which succeeded would have cost in other ways."""

    float32_full: int
    compressed_full: int
    bsdiff4_float16: int


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """A rollout's bytes. ``received`` holds those of failed and repeated attempts too, so that nothing is made to look good."""

    rollout_id: int
    vehicles: int
    received: BytesReceived
    minutes: tuple[Minute, ...]
    counterfactuals: Alternatives
    failures: dict[str, int]


def of_rollout(session: Session, rollout_id: int) -> Bandwidth:
    """Raises NotFound."""
    if rollouts.rollout(session, rollout_id) is None:
        raise NotFound(f"there is no rollout {rollout_id}")
    vehicles, received = rollouts.received(session, rollout_id)
    return Bandwidth(
        rollout_id=rollout_id,
        vehicles=vehicles,
        received=received,
        minutes=tuple(
            Minute(datetime.fromtimestamp(m.minute * 60, UTC), BytesReceived(m.metadata_bytes, m.delta_bytes, m.full_bytes))
            for m in rollouts.minutes(session, rollout_id)
        ),
        counterfactuals=Alternatives(*rollouts.counterfactual_sums(session, rollout_id)),
        failures=rollouts.failures(session, rollout_id),
    )
