"""What the dashboard's pages show, as plain values: ``queries`` fills them, ``charts`` and the templates draw them.

Nothing here knows SQL, HTTP or HTML. Byte counts are body bytes as the vehicles reported them; times are in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from model_registry.contract.messages import BytesReceived, DeploymentState

Progress = Mapping[DeploymentState, int]
"""How many deployments stand in each state."""


@dataclass(frozen=True, slots=True)
class Alternatives:
    """Bytes that what was delivered would have cost in other ways."""

    float32_full: int = 0
    compressed_full: int = 0
    bsdiff4_float16: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The enrolled vehicles; ``waiting`` ones are not accepted yet, ``recent`` ones checked in lately."""

    vehicles: int
    waiting: int
    recent: int
    inferences_served: int
    inferences_failed: int


@dataclass(frozen=True, slots=True)
class VersionLine:
    """One version of a family, and how many vehicles run it.

    ``smallest_delta_bytes`` and its ``smallest_delta_base``: the cheapest way to it; ``progress`` (0 to 1) and ``step``: while
    it is being made.
    """

    family: str
    version: str
    state: str
    error: str | None
    progress: float
    step: str
    vehicles: int
    float32_bytes: int | None
    full_bytes: int | None
    smallest_delta_bytes: int | None
    smallest_delta_base: str | None


@dataclass(frozen=True, slots=True)
class FamilyLine:
    """A family and its versions from the newest to the oldest.

    ``unknown``: vehicles that run something this registry did not publish; ``without_model``: vehicles that run nothing yet.
    """

    name: str
    hardware_id: str
    versions: tuple[VersionLine, ...]
    without_model: int
    unknown: int

    @property
    def vehicles(self) -> int:
        return self.without_model + self.unknown + sum(line.vehicles for line in self.versions)


@dataclass(frozen=True, slots=True)
class FailureLine:
    """How many deployments failed for one reason; ``code`` is a refusal's code."""

    code: str
    count: int


@dataclass(frozen=True, slots=True)
class RolloutLine:
    """One rollout in brief. ``reason``: why it was halted."""

    id: int
    family: str
    version: str
    state: str
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: Progress
    sent: BytesReceived
    alternatives: Alternatives

    @property
    def vehicles(self) -> int:
        return sum(self.progress.values())


@dataclass(frozen=True, slots=True)
class Overview:
    """The first page: the fleet, what it runs, and every rollout's state and cost."""

    fleet: Fleet
    families: tuple[FamilyLine, ...]
    rollouts: tuple[RolloutLine, ...]
    older_rollouts: int
    sent: BytesReceived
    alternatives: Alternatives
    failures: tuple[FailureLine, ...]


@dataclass(frozen=True, slots=True)
class Minute:
    """Bytes that one rollout's vehicles received within the minute that starts at ``start``."""

    start: datetime
    received: BytesReceived


@dataclass(frozen=True, slots=True)
class WaveLine:
    """One wave: which share of the fleet it ends at, and where its vehicles stand."""

    number: int
    percent: float
    state: str
    progress: Progress

    @property
    def vehicles(self) -> int:
        return sum(self.progress.values())


@dataclass(frozen=True, slots=True)
class VehicleLine:
    """One vehicle's attempt at a rollout, with what it says of itself."""

    vehicle_id: str
    wave: int
    state: DeploymentState
    base_version: str | None
    runs: str | None
    received: BytesReceived
    code: str | None
    detail: str | None
    inferences_served: int
    inferences_failed: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class VehiclePage:
    """A page of vehicles in the order of their ids; ``next_after`` continues after the last one."""

    lines: tuple[VehicleLine, ...]
    state: DeploymentState | None
    after: str | None
    next_after: str | None


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """Everything one rollout's page shows. Inferences count since each vehicle's agent was installed.

    ``waiting_until``: what must be before the next wave opens, besides what its vehicles do.
    """

    rollout: RolloutLine
    waiting_until: str | None
    success_threshold_percent: float
    error_threshold_percent: float
    waves: tuple[WaveLine, ...]
    minutes: tuple[Minute, ...]
    failures: tuple[FailureLine, ...]
    inferences_served: int
    inferences_failed: int
    vehicles: VehiclePage
