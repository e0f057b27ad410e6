"""What a worker does around a child process, for each kind of job: give it files, then store, sign and enter what came out.

Every step may be repeated: storing the same bytes, signing the same target and entering the same result change nothing, so a
worker may die between any two of them. The result is entered in the same transaction that ends the job, under its lease.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from sqlalchemy.orm import Session

from model_registry.contract.errors import ContentMismatch
from model_registry.contract.full import read_full_header
from model_registry.contract.targets import DeltaTarget
from server.bootstrap import Registry
from server.errors import JobFailed
from server.jobs import BASE_FILE, DELTA_FILE, FULL_FILE, NEW_FILE
from server.jobs.process import Verdict
from server.repositories import artifacts, jobs
from server.services import deltas, deployments, publishing
from server.tables import Delta, DeltaState, Family, Job, JobKind, JobState, Upload, Version, VersionState

COPY_BYTES = 1024 * 1024


class LeaseLost(Exception):
    """Another worker has the job now; what this one did must not count."""


class Handler(Protocol):
    """One kind of job."""

    def task(self, registry: Registry, job: Job, folder: Path) -> dict[str, Any] | None:
        """Put the child's files into ``folder`` and say what it is to do; None when it is done already."""

    def complete(self, registry: Registry, job: Job, folder: Path, result: dict[str, Any]) -> None:
        """Store, sign and enter the result, and end the job. Raises LeaseLost, Refusal."""

    def fail(self, session: Session, job: Job, verdict: Verdict) -> None:
        """Enter why there is no result. The caller ends the job in the same transaction."""


class CompressHandler:
    """An upload becomes a version's signed full artifact."""

    def task(self, registry: Registry, job: Job, folder: Path) -> dict[str, Any] | None:
        with registry.database.reading() as session:
            version = artifacts.version_by_id(session, job.payload["version_id"])
            upload = session.get(Upload, version.upload_id)
        if version.state != VersionState.PROCESSING:
            return None
        if upload is None:
            raise JobFailed("the upload is gone", remedy="publish the file again")
        name = f"upload.{upload.kind}"
        fetch(registry, publishing.upload_key(upload.id), folder / name)
        base = _base_of(registry, job)
        if base is not None:
            fetch(registry, publishing.artifact_key(base.full_sha256 or ""), folder / BASE_FILE)
        return {
            "kind": JobKind.COMPRESS.value,
            "upload": name,
            "has_base": base is not None,
            "recipe": version.recipe,
            "family": version.family,
            "version": version.version,
        }

    def complete(self, registry: Registry, job: Job, folder: Path, result: dict[str, Any]) -> None:
        sha256, size_bytes = store(registry, folder / FULL_FILE)
        with (folder / FULL_FILE).open("rb") as file:
            header = read_full_header(file.read(publishing.HEAD_BYTES))
        if header.content_sha256 != result["content_sha256"]:
            raise ContentMismatch("the artifact holds another content than the job names", remedy="report this")
        made = publishing.Compressed(
            content_sha256=header.content_sha256,
            content_bytes=header.content_bytes,
            full_sha256=sha256,
            full_bytes=size_bytes,
            float32_bytes=int(result["float32_bytes"]),
            bsdiff4_float16_bytes=int(result["bsdiff4_float16_bytes"]),
            given_sha256=result["given_sha256"],
            lost=result["lost"],
            lost_base_sha256=result["lost_base_sha256"],
            lossless=bool(result["lossless"]),
        )
        _sign_full(registry, job, made)
        with registry.database.writing() as session:
            succeed(registry, session, job)
            version = artifacts.version_by_id(session, job.payload["version_id"])
            settings = registry.settings
            publishing.publish(
                session, version, made, delta_bases=settings.delta_bases, bounds=registry.bounds, now=registry.clock()
            )

    def fail(self, session: Session, job: Job, verdict: Verdict) -> None:
        publishing.fail(artifacts.version_by_id(session, job.payload["version_id"]), verdict.code, verdict.text)


def _base_of(registry: Registry, job: Job) -> Version | None:
    """The release that the new one is to stay close to. Chosen once, so that another attempt makes the same bytes."""
    with registry.database.writing() as session:
        payload = dict(job.payload)
        if "base_id" not in payload:
            base = artifacts.published_before(session, artifacts.version_by_id(session, payload["version_id"]))
            payload["base_id"] = base.id if base else None
            jobs.remember(session, job, payload)
        return artifacts.version_by_id(session, payload["base_id"]) if payload["base_id"] else None


def _sign_full(registry: Registry, job: Job, made: publishing.Compressed) -> None:
    with registry.database.reading() as session:
        version = artifacts.version_by_id(session, job.payload["version_id"])
        family = session.get_one(Family, version.family)
        target = deployments.full_target(version, family, made.content_sha256, made.content_bytes)
    with registry.database.signing():
        registry.image_repository.add_full(target, sha256=made.full_sha256, length=made.full_bytes)


class DeltaHandler:
    """Two published versions become a signed delta, if it is smaller than the full artifact."""

    def task(self, registry: Registry, job: Job, folder: Path) -> dict[str, Any] | None:
        delta, base, version = _delta_ends(registry, job)
        if delta.state != DeltaState.QUEUED:
            return None
        fetch(registry, publishing.artifact_key(base.full_sha256 or ""), folder / BASE_FILE)
        fetch(registry, publishing.artifact_key(version.full_sha256 or ""), folder / NEW_FILE)
        return {"kind": JobKind.DELTA.value}

    def complete(self, registry: Registry, job: Job, folder: Path, result: dict[str, Any]) -> None:
        _, base, version = _delta_ends(registry, job)
        sha256, size_bytes = digest(folder / DELTA_FILE)
        made = deltas.MadeDelta(
            codec=str(result["codec"]),
            sha256=sha256,
            size_bytes=size_bytes,
            float32_full_bytes=int(result["float32_full_bytes"]),
            compressed_full_bytes=int(result["compressed_full_bytes"]),
            bsdiff4_float16_bytes=int(result["bsdiff4_float16_bytes"]),
        )
        keep = deltas.worth_keeping(size_bytes, version.full_bytes or 0)
        if keep:
            store(registry, folder / DELTA_FILE)
            _sign_delta(registry, base, version, made)
        with registry.database.writing() as session:
            succeed(registry, session, job)
            deltas.finish(session, artifacts.delta_by_id(session, job.payload["delta_id"]), made, published=keep)

    def fail(self, session: Session, job: Job, verdict: Verdict) -> None:  # noqa: ARG002 - a delta's job tells the verdict
        deltas.fail(artifacts.delta_by_id(session, job.payload["delta_id"]))


def _delta_ends(registry: Registry, job: Job) -> tuple[Delta, Version, Version]:
    """The delta, its base and its result."""
    with registry.database.reading() as session:
        delta = artifacts.delta_by_id(session, job.payload["delta_id"])
        base, version = (artifacts.version_by_id(session, number) for number in (delta.base_id, delta.version_id))
        return delta, base, version


def _sign_delta(registry: Registry, base: Version, version: Version, made: deltas.MadeDelta) -> None:
    if base.content_sha256 is None or version.content_sha256 is None:
        raise JobFailed("a delta needs two published versions")
    target = DeltaTarget(version.family, base.content_sha256, version.content_sha256)
    with registry.database.signing():
        registry.image_repository.add_deltas([(target, made.sha256, made.size_bytes)])


HANDLERS: Mapping[str, Handler] = MappingProxyType({JobKind.COMPRESS: CompressHandler(), JobKind.DELTA: DeltaHandler()})


def succeed(registry: Registry, session: Session, job: Job) -> None:
    """End the job in the transaction that enters its result. Raises LeaseLost, which undoes the transaction."""
    if not jobs.finish(session, job, JobState.SUCCEEDED, registry.clock()):
        raise LeaseLost


def fetch(registry: Registry, key: str, path: Path) -> None:
    """Copy a stored object into the job's folder."""
    with registry.store.open(key) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, COPY_BYTES)


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 and size in bytes of what a child left. Raises JobFailed when it is no plain file."""
    if path.is_symlink() or not path.is_file():
        raise JobFailed(f"the job's process left no {path.name}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size


def store(registry: Registry, path: Path) -> tuple[str, int]:
    """Keep an artifact under its digest; SHA-256 and size in bytes."""
    sha256, size_bytes = digest(path)
    with path.open("rb") as file:
        registry.store.put(publishing.artifact_key(sha256), file, sha256=sha256, size_bytes=size_bytes)
    return sha256, size_bytes
