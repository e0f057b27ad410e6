"""The operator API's JSON. Times are UTC, sizes bytes; a request with unknown fields is refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Item = TypeVar("Item")


class Request(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Answer(BaseModel):
    """What the registry answers."""

    model_config = ConfigDict(frozen=True)


class Page(Answer, Generic[Item]):
    """A part of a list; ``next_cursor`` continues it, and is null at its end."""

    items: list[Item]
    next_cursor: str | None = None


class UploadAnswer(Answer):
    """A stored file, waiting to become a version."""

    upload_id: str
    sha256: str
    bytes: int
    expires_at: datetime


class FamilyRequest(Request):
    """The hardware class that a family's models are for."""

    hardware_id: Name


class FamilyAnswer(Answer):
    """A line of models for one job on one hardware class."""

    family: str
    hardware_id: str
    created_at: datetime


class VersionRequest(Request):
    """Ask for a version to be made from an upload. ``recipe``: architecture, lossless, step, preprocessing, labels."""

    version: Annotated[str, Field(max_length=64)]
    upload_id: Annotated[str, Field(max_length=64)]
    recipe: dict[str, Any] = Field(default_factory=dict)


class VersionAccepted(Answer):
    """The version is taken; its job tells how far it is."""

    family: str
    version: str
    state: str
    job_id: int | None


class DeltaAnswer(Answer):
    """A delta to a version.

    ``state``: queued, published, dropped (not smaller than the full artifact), failed, retiring or retired. ``lost``: the share
    of the update from this base that was not delivered; null where it was measured from another base.
    """

    base_version: str
    state: str
    bytes: int | None
    codec: str | None
    lost: float | None


class ErrorAnswer(Answer):
    """Why something has failed."""

    code: str
    detail: str


class VersionAnswer(Answer):
    """One release. ``deltas`` are those that vehicles can take.

    ``lost``: the share of the update that is not delivered to the content ``lost_base_sha256``, or to one that is not published
    here. ``lossless``: every weight is exact. ``listed``: signed metadata names it, which a rollout sees to.
    """

    family: str
    version: str
    state: str
    release_counter: int
    job_id: int | None
    content_sha256: str | None
    content_bytes: int | None
    full_sha256: str | None
    full_bytes: int | None
    float32_bytes: int | None
    lost: float | None
    lost_base_sha256: str | None
    lossless: bool | None
    listed: bool
    deltas: list[DeltaAnswer]
    deltas_in_the_making: int
    error: ErrorAnswer | None
    created_at: datetime
    published_at: datetime | None


class NodeAnswer(Answer):
    """A published release in the delta graph; ``bytes`` of its full artifact. ``lost`` was measured from ``lost_base``.

    ``listed``: signed metadata names it; a release that nobody is to run is signed again as soon as a rollout brings it.
    """

    version: str
    content_sha256: str
    content_bytes: int
    bytes: int
    vehicles: int
    lost: float | None
    lost_base: str | None
    listed: bool


class EdgeAnswer(Answer):
    """An artifact in the delta graph; no ``base``: a full one. ``vehicles`` would take it on their way to the target.

    ``state``: of a delta as above; of a full one published, or unlisted while signed metadata does not name it.
    """

    base: str | None
    version: str
    state: str
    codec: str | None
    bytes: int | None
    lost: float | None
    vehicles: int
    retired_because: str | None
    retired_at: datetime | None


class JourneyAnswer(Answer):
    """The cheapest way of the vehicles on ``base`` (null: on nothing that is published here); it ``passes`` these versions."""

    base: str | None
    vehicles: int
    by_full: bool
    passes: list[str]
    bytes: int
    rebuild_s: float


class UnneededAnswer(Answer):
    """A delta that nobody needs, and why: ``unused`` or ``dearer`` than another way."""

    base: str
    version: str
    because: str


class RetiredAnswer(UnneededAnswer):
    """A delta that was retired; ``retiring`` until signed metadata has forgotten it."""

    state: str


class GraphAnswer(Answer):
    """A family's delta graph, with the cheapest ways to ``target``.

    ``metadata_bytes``: what its deltas and releases come to in the signed metadata that every vehicle reads.
    """

    family: str
    target: str | None
    nodes: list[NodeAnswer]
    edges: list[EdgeAnswer]
    ways: list[JourneyAnswer]
    to_make: list[str]
    to_retire: list[UnneededAnswer]
    metadata_bytes: int


class JobAnswer(Answer):
    """Work of a worker's child process."""

    id: int
    kind: str
    state: str
    progress: float
    step: str
    attempts: int
    error: ErrorAnswer | None
    created_at: datetime
    finished_at: datetime | None


class TokensRequest(Request):
    """``auto_accept``: vehicles that use these tokens need no operator's word."""

    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    family: Name
    auto_accept: bool = False


class TokensAnswer(Answer):
    """One-time tokens; they are shown once and kept nowhere."""

    tokens: list[str]


class InstalledAnswer(Answer):
    """What a vehicle says it runs."""

    version: str
    content_sha256: str
    release_counter: int | None


class VehicleAnswer(Answer):
    """A vehicle. Inferences count since its agent's installation."""

    id: str
    family: str
    hardware_id: str
    state: str
    keyid: str
    enrolled_at: datetime
    installed: InstalledAnswer | None
    seen_at: datetime | None
    inferences_served: int
    inferences_failed: int


class ReceivedAnswer(Answer):
    """Bytes by kind."""

    metadata: int
    delta: int
    full: int


class DeploymentAnswer(Answer):
    """One vehicle's attempt."""

    id: int
    rollout_id: int
    vehicle_id: str
    wave: int
    state: str
    code: str | None
    detail: str | None
    base_version: str | None
    received: ReceivedAnswer
    updated_at: datetime


class VehicleDetail(VehicleAnswer):
    """A vehicle with its latest deployments."""

    deployments: list[DeploymentAnswer]


class RolloutRequest(Request):
    """``waves``: growing percentages of the family's vehicles."""

    family: Name
    version: Annotated[str, Field(max_length=64)]
    waves: Annotated[list[Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]], Field(min_length=1, max_length=100)] = [
        25,
        50,
        100,
    ]
    success_threshold_percent: Percent = 100
    error_threshold_percent: Percent = 20
    min_executed: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class WaveAnswer(Answer):
    """A wave and how its vehicles fare."""

    number: int
    percent: float
    state: str
    vehicles: int
    succeeded: int
    failed: int
    aborted: int
    opened_at: datetime | None
    done_at: datetime | None


class RolloutAnswer(Answer):
    """A rollout. ``halted_because`` says why it paused by itself; ``actions`` are the words it understands now.

    ``waiting_until``: what must be before the next wave opens, besides what its vehicles do.
    """

    id: int
    family: str
    version: str
    state: str
    success_threshold_percent: float
    error_threshold_percent: float
    min_executed: int
    halted_because: str | None
    waiting_until: str | None
    waves: list[WaveAnswer]
    vehicles: int
    succeeded: int
    failed: int
    aborted: int
    actions: list[str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class MinuteAnswer(ReceivedAnswer):
    """Bytes of one minute."""

    minute: datetime


class CounterfactualsAnswer(Answer):
    """What the deployments that succeeded would have cost in other ways, in bytes."""

    float32_full: int
    compressed_full: int
    bsdiff4_float16: int


class FailureAnswer(Answer):
    """How often vehicles failed for one reason."""

    code: str
    count: int


class BandwidthAnswer(Answer):
    """What a rollout cost in bytes, failed and repeated attempts included."""

    rollout_id: int
    vehicles: int
    received: ReceivedAnswer
    minutes: list[MinuteAnswer]
    counterfactuals: CounterfactualsAnswer
    failures: list[FailureAnswer]
