"""The registry's tables, the same on SQLite and PostgreSQL.

Rules: CHECK constraints are written by hand and tested with bad rows, because migrations are not derived from them; times are
UTC; digests are 64 lower-case hexadecimal digits; a state column holds one value of the StrEnum beside it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from model_registry.contract.messages import DeploymentState

NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class VersionState(StrEnum):
    """Where a version stands on its way to vehicles."""

    PROCESSING = "processing"
    PUBLISHED = "published"
    FAILED = "failed"


class Listing(StrEnum):
    """Whether signed metadata names a published version. ``leaving``: a worker is about to have it forgotten, or named again if
    it is needed after all; no wave opens with it meanwhile. ``unlisted``: forgotten, until somebody is to run it again.
    """

    LISTED = "listed"
    LEAVING = "leaving"
    UNLISTED = "unlisted"


NAMED = (Listing.LISTED, Listing.LEAVING)


class DeltaState(StrEnum):
    """``dropped``: it was made and is not smaller than the full artifact. ``retiring``: it is offered to nobody any more;
    ``retired``: signed metadata no longer names it either, and its file goes after a while.
    """

    QUEUED = "queued"
    PUBLISHED = "published"
    DROPPED = "dropped"
    FAILED = "failed"
    RETIRING = "retiring"
    RETIRED = "retired"


class RetiredBecause(StrEnum):
    """Why a delta is retired: nobody runs its base, a cheaper way exists, or an operator said so."""

    UNUSED = "unused"
    DEARER = "dearer"
    OPERATOR = "operator"


class JobKind(StrEnum):
    """What a worker's child process can be asked to do."""

    COMPRESS = "compress"
    DELTA = "delta"


class JobState(StrEnum):
    """A job's life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class VehicleState(StrEnum):
    """Whether the registry answers this vehicle."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class RolloutState(StrEnum):
    """A rollout's life; ``services.rollouts`` holds the only transition table."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    ABORTED = "aborted"


class WaveState(StrEnum):
    """A wave waits, is open to its vehicles, or has done its part."""

    SCHEDULED = "scheduled"
    OPEN = "open"
    DONE = "done"


class Utc(TypeDecorator[datetime]):
    """An aware UTC time. SQLite keeps no zone, so it is added when reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    listed = ", ".join(f"'{v.value}'" for v in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


def _digest(column: str) -> CheckConstraint:
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_is_a_digest")


def _not_negative(*columns: str) -> CheckConstraint:
    return CheckConstraint(" AND ".join(f"{c} >= 0" for c in columns), name="not_negative")


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: Utc, dict[str, Any]: JSON, list[int]: JSON}  # noqa: RUF012


class Family(Table):
    """A line of models for one job on one hardware class."""

    __tablename__ = "families"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    hardware_id: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class Upload(Table):
    """A file that an operator sent and that no version has used yet, or only just."""

    __tablename__ = "uploads"
    __table_args__ = (_digest("sha256"), _not_negative("size_bytes"))
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class Version(Table):
    """One release of a family. Sizes are in bytes; what only a published version has is empty before.

    ``given_sha256``: its content's digest before it got its name. ``lost``: the share of the update from the content
    ``lost_base_sha256`` that was not delivered; that content is a published one, or the column is empty. ``lossless``: every
    weight is as it was trained, so nothing is lost whatever the base.
    """

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("family", "version"),
        UniqueConstraint("family", "release_counter"),
        _one_of("state", VersionState),
        _digest("upload_sha256"),
        _digest("content_sha256"),
        _digest("full_sha256"),
        CheckConstraint("release_counter >= 1", name="counter_from_one"),
        CheckConstraint(
            "state <> 'published' OR (content_sha256 IS NOT NULL AND full_sha256 IS NOT NULL AND full_bytes IS NOT NULL"
            " AND content_bytes IS NOT NULL AND float32_bytes IS NOT NULL AND published_at IS NOT NULL)",
            name="published_is_complete",
        ),
        _digest("given_sha256"),
        _digest("lost_base_sha256"),
        CheckConstraint("lost >= 0", name="lost_not_negative"),
        _one_of("listing", Listing),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    family: Mapped[str] = mapped_column(ForeignKey("families.name"))
    version: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    release_counter: Mapped[int] = mapped_column(BigInteger)
    upload_id: Mapped[str] = mapped_column(String(32))
    upload_sha256: Mapped[str] = mapped_column(String(64))
    recipe: Mapped[dict[str, Any]]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    content_sha256: Mapped[str | None] = mapped_column(String(64), unique=True)
    content_bytes: Mapped[int | None] = mapped_column(BigInteger)
    full_sha256: Mapped[str | None] = mapped_column(String(64))
    full_bytes: Mapped[int | None] = mapped_column(BigInteger)
    float32_bytes: Mapped[int | None] = mapped_column(BigInteger)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    published_at: Mapped[datetime | None]
    given_sha256: Mapped[str | None] = mapped_column(String(64))
    lost: Mapped[float | None]
    lost_base_sha256: Mapped[str | None] = mapped_column(String(64))
    lossless: Mapped[bool | None]
    listing: Mapped[str | None] = mapped_column(String(16))


class Delta(Table):
    """The way from one version of a family to another. A retired one without ``sha256`` has no file any more."""

    __tablename__ = "deltas"
    __table_args__ = (
        UniqueConstraint("base_id", "version_id"),
        _one_of("state", DeltaState),
        _digest("sha256"),
        CheckConstraint("base_id <> version_id", name="two_versions"),
        CheckConstraint(
            "state <> 'published' OR (sha256 IS NOT NULL AND size_bytes IS NOT NULL AND codec IS NOT NULL)",
            name="published_is_complete",
        ),
        _one_of("retired_because", RetiredBecause),
        CheckConstraint(
            "state NOT IN ('retiring', 'retired') OR (retired_because IS NOT NULL AND retired_at IS NOT NULL)",
            name="retired_is_explained",
        ),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    base_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    codec: Mapped[str | None] = mapped_column(String(16))
    sha256: Mapped[str | None] = mapped_column(String(64))
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
    retired_because: Mapped[str | None] = mapped_column(String(16))
    retired_at: Mapped[datetime | None]


class Counterfactual(Table):
    """What reaching a version would have cost in other ways, in bytes. ``base_sha256`` is empty for "ran nothing"."""

    __tablename__ = "counterfactuals"
    __table_args__ = (
        CheckConstraint("length(base_sha256) IN (0, 64)", name="base_sha256_is_a_digest"),
        _not_negative("float32_full_bytes", "compressed_full_bytes", "bsdiff4_float16_bytes"),
    )
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"), primary_key=True)
    base_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    float32_full_bytes: Mapped[int] = mapped_column(BigInteger)
    compressed_full_bytes: Mapped[int] = mapped_column(BigInteger)
    bsdiff4_float16_bytes: Mapped[int] = mapped_column(BigInteger)


class Job(Table):
    """Work for a child process of a worker. ``key`` names the work, so that asking twice is asking once."""

    __tablename__ = "jobs"
    __table_args__ = (
        _one_of("kind", JobKind),
        _one_of("state", JobState),
        CheckConstraint("progress >= 0 AND progress <= 1", name="progress_is_a_share"),
        CheckConstraint(
            "state <> 'running' OR (lease_owner IS NOT NULL AND lease_until IS NOT NULL)", name="running_is_leased"
        ),
        Index("ix_jobs_state_id", "state", "id"),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(256), unique=True)
    payload: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    progress: Mapped[float] = mapped_column(default=0.0)
    step: Mapped[str] = mapped_column(String(128), default="")
    error_code: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class EnrolmentToken(Table):
    """A one-time permission to enrol, known here by its digest alone."""

    __tablename__ = "enrolment_tokens"
    __table_args__ = (
        _digest("sha256"),
        CheckConstraint("(used_by IS NULL) = (used_at IS NULL)", name="used_by_and_when"),
    )
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    family: Mapped[str] = mapped_column(ForeignKey("families.name"))
    auto_accept: Mapped[bool]
    created_at: Mapped[datetime]
    used_by: Mapped[str | None] = mapped_column(String(64))
    used_at: Mapped[datetime | None]


class Vehicle(Table):
    """One vehicle: its key, and what it last said it runs.

    ``revision`` is the fleet's revision at the last change of this row that its instruction may depend on.
    ``installed_sequence`` is the sequence of the message that told ``installed_*``; an older message changes nothing.
    """

    __tablename__ = "vehicles"
    __table_args__ = (
        _one_of("state", VehicleState),
        _digest("keyid"),
        _digest("installed_sha256"),
        CheckConstraint("(installed_sha256 IS NULL) = (installed_version IS NULL)", name="installed_is_complete"),
    )
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    family: Mapped[str] = mapped_column(ForeignKey("families.name"), index=True)
    hardware_id: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    public_key: Mapped[dict[str, Any]]
    keyid: Mapped[str] = mapped_column(String(64))
    enrolled_at: Mapped[datetime]
    installed_version: Mapped[str | None] = mapped_column(String(64))
    installed_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    installed_counter: Mapped[int | None] = mapped_column(BigInteger)
    installed_sequence: Mapped[int] = mapped_column(BigInteger, default=-1)
    revision: Mapped[int] = mapped_column(BigInteger, default=0, index=True)


class Presence(Table):
    """What changes with every check-in, kept apart and narrow because it is written in batches all the time."""

    __tablename__ = "presences"
    __table_args__ = (_not_negative("inferences_served", "inferences_failed"),)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    seen_at: Mapped[datetime]
    sequence: Mapped[int] = mapped_column(BigInteger)
    inferences_served: Mapped[int] = mapped_column(BigInteger)
    inferences_failed: Mapped[int] = mapped_column(BigInteger)


class FleetRevision(Table):
    """One row: a counter that grows with every change that an instruction may depend on."""

    __tablename__ = "fleet_revisions"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(BigInteger)


class Rollout(Table):
    """One version on its way to a family's vehicles. ``halted_because`` is filled while an error threshold keeps it paused."""

    __tablename__ = "rollouts"
    __table_args__ = (
        _one_of("state", RolloutState),
        CheckConstraint("success_threshold_percent BETWEEN 0 AND 100", name="success_threshold_is_a_percentage"),
        CheckConstraint("error_threshold_percent BETWEEN 0 AND 100", name="error_threshold_is_a_percentage"),
        CheckConstraint("min_executed >= 1", name="min_executed_from_one"),
        # Two versions must not be on their way to one vehicle at a time.
        Index(
            "uq_rollouts_active_family",
            "family",
            unique=True,
            sqlite_where=text("state IN ('running', 'paused')"),
            postgresql_where=text("state IN ('running', 'paused')"),
        ),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    family: Mapped[str] = mapped_column(ForeignKey("families.name"))
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    state: Mapped[str] = mapped_column(String(16))
    success_threshold_percent: Mapped[float]
    error_threshold_percent: Mapped[float]
    min_executed: Mapped[int]
    halted_because: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class Wave(Table):
    """A share of a rollout's vehicles, up to ``percent`` of all of them.

    ``pardoned_*``: what had been executed and had failed when an operator resumed a halted rollout; judged once, not again.
    """

    __tablename__ = "waves"
    __table_args__ = (
        _one_of("state", WaveState),
        CheckConstraint("percent > 0 AND percent <= 100", name="percent_is_a_share"),
        _not_negative("ordinal", "pardoned_executed", "pardoned_failed"),
    )
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    percent: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
    opened_at: Mapped[datetime | None]
    done_at: Mapped[datetime | None]
    pardoned_executed: Mapped[int] = mapped_column(default=0)
    pardoned_failed: Mapped[int] = mapped_column(default=0)


class Deployment(Table):
    """One vehicle's attempt. ``base_*`` is what it ran when its wave opened; ``received_*`` are bytes so far, as it reports."""

    __tablename__ = "deployments"
    __table_args__ = (
        UniqueConstraint("rollout_id", "vehicle_id"),
        _one_of("state", DeploymentState),
        CheckConstraint("length(base_sha256) IN (0, 64)", name="base_sha256_is_a_digest"),
        _not_negative("received_metadata", "received_delta", "received_full"),
        Index("ix_deployments_rollout_id_wave_state", "rollout_id", "wave", "state"),
        # A vehicle has one thing to do at a time.
        Index(
            "uq_deployments_active_vehicle",
            "vehicle_id",
            unique=True,
            sqlite_where=text("state NOT IN ('succeeded', 'failed', 'aborted')"),
            postgresql_where=text("state NOT IN ('succeeded', 'failed', 'aborted')"),
        ),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"))
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id"))
    wave: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    code: Mapped[str | None] = mapped_column(String(64))
    detail: Mapped[str | None] = mapped_column(Text)
    base_version: Mapped[str | None] = mapped_column(String(64))
    base_sha256: Mapped[str] = mapped_column(String(64), default="")
    received_metadata: Mapped[int] = mapped_column(BigInteger, default=0)
    received_delta: Mapped[int] = mapped_column(BigInteger, default=0)
    received_full: Mapped[int] = mapped_column(BigInteger, default=0)
    sequence: Mapped[int] = mapped_column(BigInteger, default=-1)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class RolloutMinute(Table):
    """Bytes that a rollout's vehicles received in one minute; ``minute`` counts minutes since 1970 UTC."""

    __tablename__ = "rollout_minutes"
    __table_args__ = (_not_negative("metadata_bytes", "delta_bytes", "full_bytes"),)
    rollout_id: Mapped[int] = mapped_column(ForeignKey("rollouts.id", ondelete="CASCADE"), primary_key=True)
    minute: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    metadata_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    delta_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    full_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class DirectorMetadata(Table):
    """What the director signed for one vehicle, by version number. The last two are kept, for a download that is under way."""

    __tablename__ = "director_metadata"
    __table_args__ = (CheckConstraint("version >= 1", name="version_from_one"),)
    vehicle_id: Mapped[str] = mapped_column(ForeignKey("vehicles.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    target_version_id: Mapped[int | None] = mapped_column(ForeignKey("versions.id"))
    files: Mapped[bytes] = mapped_column(LargeBinary)
    expires_at: Mapped[datetime]
