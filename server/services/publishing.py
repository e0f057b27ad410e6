"""From an upload to a published version: names, numbers, and asking twice being asking once.

A version is taken by the first upload that asks for it. Asking again with the same bytes and recipe gives the same version;
other bytes are refused, unless the version has failed and so never reached anybody.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy.orm import Session

from model_registry.contract.errors import UnsupportedArtifact
from model_registry.contract.fields import NAME, SEMVER
from model_registry.contract.full import begins_full, read_full_header
from server.errors import Conflict, InvalidRequest, NotFound
from server.repositories import artifacts, jobs
from server.services import deltas
from server.services.planning import DEFAULT_BOUNDS, Bounds
from server.tables import Counterfactual, Family, JobKind, Listing, Upload, Version, VersionState

# What an upload's kind is read from.
HEAD_BYTES = 64
MAX_ERROR_LENGTH = 2000


class UploadKind(StrEnum):
    """What a compress job can start from. The values are file suffixes."""

    FULL = "dfm"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@dataclass(frozen=True, slots=True)
class Compressed:
    """What a compress job found out. ``bsdiff4_float16_bytes``: what that way would cost a vehicle that has nothing.

    ``given_sha256``: the content's digest before it got its name. ``lost``: as the manifest says, against ``lost_base_sha256``.
    """

    content_sha256: str
    content_bytes: int
    full_sha256: str
    full_bytes: int
    float32_bytes: int
    bsdiff4_float16_bytes: int
    given_sha256: str | None = None
    lost: float | None = None
    lost_base_sha256: str | None = None
    lossless: bool = False


def upload_kind(head: bytes) -> UploadKind:
    """What a file is, by its first bytes; its name is never believed. Raises UnsupportedArtifact, MalformedArtifact."""
    if begins_full(head):
        read_full_header(head)
        return UploadKind.FULL
    header_bytes = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and 2 <= header_bytes <= 100_000_000:
        return UploadKind.SAFETENSORS
    if head.startswith(b"\x08") and len(head) > 2:
        return UploadKind.ONNX  # protobuf's first field, the format's version
    if head.startswith(b"PK\x03\x04"):
        raise UnsupportedArtifact("this looks like a torch checkpoint", remedy="turn it into safetensors: deltafleet import")
    raise UnsupportedArtifact("the upload is no .dfm, .safetensors or .onnx file", remedy="publish one of these")


def ensure_family(session: Session, name: str, hardware_id: str, now: datetime) -> tuple[Family, bool]:
    """The family, and whether it is new. Raises Conflict when it exists for other hardware."""
    if not NAME.fullmatch(name) or not NAME.fullmatch(hardware_id):
        raise InvalidRequest(f"a family and its hardware have names like {NAME.pattern}", remedy="correct the name")
    family = artifacts.family(session, name)
    if family is None:
        family = Family(name=name, hardware_id=hardware_id, created_at=now)
        session.add(family)
        session.flush()
        return family, True
    if family.hardware_id != hardware_id:
        raise Conflict(
            f"the family {name} is for {family.hardware_id}, not {hardware_id}", remedy="use another family for other hardware"
        )
    return family, False


def new_upload(*, sha256: str, size_bytes: int, head: bytes, now: datetime, lifetime_s: float) -> Upload:
    """The row of a file that is about to be stored. Raises ArtifactRefused for what no job could read."""
    return Upload(
        id=secrets.token_hex(16),
        sha256=sha256,
        size_bytes=size_bytes,
        kind=upload_kind(head),
        created_at=now,
        expires_at=now + timedelta(seconds=lifetime_s),
    )


def upload_key(upload_id: str) -> str:
    """Where an upload is stored."""
    return f"uploads/{upload_id}"


def artifact_key(sha256: str) -> str:
    """Where an artifact is stored: by content, so that the same bytes lie there once."""
    return f"artifacts/{sha256}"


def request_version(
    session: Session, family_name: str, number: str, *, upload_id: str, recipe: dict[str, Any], now: datetime
) -> Version:
    """Take the version for this upload and ask for its compression. Raises NotFound, Conflict, InvalidRequest."""
    if not SEMVER.fullmatch(number) or len(number) > 64:
        raise InvalidRequest(f"{number[:80]!r} is not a version", remedy="use MAJOR.MINOR.PATCH, for example 2.0.0")
    if artifacts.hold_family(session, family_name) is None:
        raise NotFound(f"there is no family {family_name}", remedy="create it with PUT /api/v1/families/{family}")
    counter = artifacts.next_release_counter(session, family_name)
    existing = artifacts.version(session, family_name, number)
    if existing and existing.upload_id == upload_id and existing.recipe == recipe and existing.state != VersionState.FAILED:
        return existing
    upload = artifacts.upload(session, upload_id)
    if upload is None or upload.expires_at <= now:
        raise NotFound("there is no such upload, or it has expired", remedy="upload the file again")
    if existing is None:
        existing = Version(family=family_name, version=number, release_counter=counter, created_at=now)
        session.add(existing)
    elif existing.state != VersionState.FAILED:
        if existing.upload_sha256 == upload.sha256 and existing.recipe == recipe:
            return existing
        raise Conflict(
            f"version {number} of {family_name} was made from another file or recipe", remedy="publish under a new version"
        )
    _start(session, existing, upload, recipe, now)
    return existing


def _start(session: Session, version: Version, upload: Upload, recipe: dict[str, Any], now: datetime) -> None:
    version.state, version.error, version.error_code = VersionState.PROCESSING, None, None
    version.upload_id, version.upload_sha256, version.recipe = upload.id, upload.sha256, recipe
    session.flush()
    key = f"compress:{version.family}/{version.version}"
    version.job_id = jobs.request(session, JobKind.COMPRESS, key, {"version_id": version.id}, now).id


def publish(
    session: Session, version: Version, made: Compressed, *, delta_bases: int, bounds: Bounds = DEFAULT_BOUNDS, now: datetime
) -> None:
    """Enter what was made and signed, and ask for the deltas that the fleet needs."""
    version.content_sha256, version.content_bytes = made.content_sha256, made.content_bytes
    version.full_sha256, version.full_bytes, version.float32_bytes = made.full_sha256, made.full_bytes, made.float32_bytes
    version.state, version.published_at, version.listing = VersionState.PUBLISHED, now, Listing.LISTED
    version.given_sha256, version.lossless, version.lost = made.given_sha256, made.lossless, made.lost
    base = artifacts.known_content(session, version.family, made.lost_base_sha256) if made.lost_base_sha256 else None
    version.lost_base_sha256 = base.content_sha256 if base else None
    costs = Counterfactual(
        version_id=version.id,
        base_sha256="",
        float32_full_bytes=made.float32_bytes,
        compressed_full_bytes=made.full_bytes,
        bsdiff4_float16_bytes=made.bsdiff4_float16_bytes,
    )
    artifacts.save_counterfactual(session, costs)
    session.flush()
    deltas.plan(session, version, limit=delta_bases, bounds=bounds, now=now)


def fail(version: Version, code: str, text: str) -> None:
    """Say why there will be no such version, for who published it."""
    version.state, version.error_code, version.error = VersionState.FAILED, code, text[:MAX_ERROR_LENGTH]
