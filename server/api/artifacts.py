"""Operators publish: uploads, families, versions, jobs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import Sequence
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Path, Response
from fastapi import Request as HttpRequest
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from model_registry.compression.recipe import Recipe
from model_registry.contract.errors import ContentMismatch
from server.api.auth import Role, needs
from server.api.pages import Cursor, Limit, cursor_number, cursor_text, page
from server.api.parts import TheRegistry
from server.api.schemas import (
    DeltaAnswer,
    ErrorAnswer,
    FamilyAnswer,
    FamilyRequest,
    JobAnswer,
    Name,
    Page,
    UploadAnswer,
    VersionAccepted,
    VersionAnswer,
    VersionRequest,
)
from server.bootstrap import Registry
from server.errors import BodyIncomplete, InvalidRequest, LengthRequired, NotFound
from server.repositories import artifacts, jobs
from server.services import deltas, publishing
from server.tables import NAMED, DeltaState, Family, Job, Upload, Version

router = APIRouter(prefix="/api/v1", tags=["publishing"])
PIECE_BYTES = 1024 * 1024
SPOOLED_IN_MEMORY_BYTES = 4 * 1024 * 1024
_DIGEST = re.compile(r"sha-256=:?([A-Za-z0-9+/]{43}=):?")
FamilyName = Annotated[Name, Path()]
MAX_INTEGER = 2**31 - 1


@router.post("/uploads", status_code=201, dependencies=[needs(Role.PUBLISHER)])
async def upload(request: HttpRequest, registry: TheRegistry) -> UploadAnswer:
    """Send a file: octets, with Content-Length, and if wanted with `Digest: sha-256=BASE64`."""
    announced = request.headers.get("content-length")
    if announced is None:
        raise LengthRequired("an upload says how long it is", remedy="send Content-Length")
    if announced == "0":
        raise InvalidRequest("the upload is empty", remedy="send a .dfm, .safetensors or .onnx file")
    expected = _expected_digest(request)
    with tempfile.SpooledTemporaryFile(SPOOLED_IN_MEMORY_BYTES, dir=str(registry.settings.scratch_directory)) as spool:
        sha256, size_bytes, head = await _receive(request, spool)
        if expected is not None and expected != sha256:
            raise ContentMismatch(f"the upload's digest is {sha256}, announced was {expected}", remedy="send it again")
        row = await run_in_threadpool(_keep, registry, spool, sha256, size_bytes, head)
    return UploadAnswer(upload_id=row.id, sha256=row.sha256, bytes=row.size_bytes, expires_at=row.expires_at)


def _expected_digest(request: HttpRequest) -> str | None:
    text = request.headers.get("content-digest") or request.headers.get("digest")
    if text is None:
        return None
    match = _DIGEST.search(text)
    try:
        return base64.b64decode(match[1], validate=True).hex() if match else None
    except binascii.Error as exc:
        raise InvalidRequest("the digest is not base64", remedy="send Digest: sha-256=BASE64") from exc


async def _receive(request: HttpRequest, spool: BinaryIO | Any) -> tuple[str, int, bytes]:
    """Write the body down piece by piece. SHA-256, size in bytes and first bytes; raises BodyIncomplete."""
    digest, size_bytes, head, piece = hashlib.sha256(), 0, b"", bytearray()

    def write(data: bytes) -> None:
        digest.update(data)
        spool.write(data)

    try:
        async for chunk in request.stream():
            size_bytes += len(chunk)
            head = head if len(head) >= publishing.HEAD_BYTES else (head + chunk)[: publishing.HEAD_BYTES]
            piece += chunk
            if len(piece) >= PIECE_BYTES:
                await run_in_threadpool(write, bytes(piece))
                piece.clear()
    except ClientDisconnect as exc:
        raise BodyIncomplete(f"the upload broke off after {size_bytes} bytes", remedy="send it again") from exc
    await run_in_threadpool(write, bytes(piece))
    return digest.hexdigest(), size_bytes, head


def _keep(registry: Registry, spool: Any, sha256: str, size_bytes: int, head: bytes) -> Upload:
    settings, now = registry.settings, registry.clock()
    row = publishing.new_upload(sha256=sha256, size_bytes=size_bytes, head=head, now=now, lifetime_s=settings.upload_lifetime_s)
    spool.seek(0)
    registry.store.put(publishing.upload_key(row.id), spool, sha256=sha256, size_bytes=size_bytes)
    with registry.database.writing() as session:
        session.add(row)
    return row


@router.put("/families/{family}", dependencies=[needs(Role.PUBLISHER)])
def put_family(family: FamilyName, wanted: FamilyRequest, registry: TheRegistry, response: Response) -> FamilyAnswer:
    """Make a family, or confirm that it is as asked."""
    with registry.database.writing() as session:
        row, new = publishing.ensure_family(session, family, wanted.hardware_id, registry.clock())
    response.status_code = 201 if new else 200
    return _family_answer(row)


@router.get("/families", dependencies=[needs(Role.VIEWER)])
def list_families(registry: TheRegistry, limit: Limit = 100, cursor: Cursor = None) -> Page[FamilyAnswer]:
    """All families, by name."""
    with registry.database.reading() as session:
        rows = artifacts.families(session, after=cursor_text(cursor), limit=limit + 1)
    return page(rows, limit, _family_answer, lambda row: row.name)


def _family_answer(row: Family) -> FamilyAnswer:
    return FamilyAnswer(family=row.name, hardware_id=row.hardware_id, created_at=row.created_at)


@router.post("/families/{family}/versions", status_code=202, dependencies=[needs(Role.PUBLISHER)])
def publish(family: FamilyName, wanted: VersionRequest, registry: TheRegistry) -> VersionAccepted:
    """Have a version made from an upload. Asking again with the same file and recipe gives the same answer."""
    recipe = Recipe.from_json(wanted.recipe).to_json()
    with registry.database.writing() as session:
        row = publishing.request_version(
            session, family, wanted.version, upload_id=wanted.upload_id, recipe=recipe, now=registry.clock()
        )
    return VersionAccepted(family=row.family, version=row.version, state=row.state, job_id=row.job_id)


@router.get("/families/{family}/versions", dependencies=[needs(Role.VIEWER)])
def list_versions(family: FamilyName, registry: TheRegistry, limit: Limit = 100, cursor: Cursor = None) -> Page[VersionAnswer]:
    """A family's releases, newest first."""
    with registry.database.reading() as session:
        if artifacts.family(session, family) is None:
            raise NotFound(f"there is no family {family}")
        rows = artifacts.versions(session, family, before=cursor_number(cursor, MAX_INTEGER), limit=limit + 1)
        answers = _version_answers(session, rows)
    return page(answers, limit, lambda answer: answer, lambda answer: str(answer.release_counter))


@router.get("/families/{family}/versions/{version}", dependencies=[needs(Role.VIEWER)])
def show_version(family: FamilyName, version: str, registry: TheRegistry) -> VersionAnswer:
    """One release."""
    with registry.database.reading() as session:
        row = artifacts.version(session, family, version)
        if row is None:
            raise NotFound(f"there is no version {version[:64]} of {family}")
        return _version_answers(session, [row])[0]


def _version_answers(session: Session, rows: Sequence[Version]) -> list[VersionAnswer]:
    found = artifacts.deltas_to(session, [row.id for row in rows])
    return [_version_answer(row, [d for d in found if d.delta.version_id == row.id]) for row in rows]


def _version_answer(row: Version, found: Sequence[artifacts.DeltaRow]) -> VersionAnswer:
    return VersionAnswer(
        family=row.family,
        version=row.version,
        state=row.state,
        release_counter=row.release_counter,
        job_id=row.job_id,
        content_sha256=row.content_sha256,
        content_bytes=row.content_bytes,
        full_sha256=row.full_sha256,
        full_bytes=row.full_bytes,
        float32_bytes=row.float32_bytes,
        lost=row.lost,
        lost_base_sha256=row.lost_base_sha256,
        lossless=row.lossless,
        listed=row.listing in NAMED,
        deltas=[
            DeltaAnswer(
                base_version=d.base.version,
                state=d.delta.state,
                bytes=d.delta.size_bytes,
                codec=d.delta.codec,
                lost=deltas.lost(row, d.base),
            )
            for d in found
            if d.delta.state == DeltaState.PUBLISHED
        ],
        deltas_in_the_making=sum(d.delta.state == DeltaState.QUEUED for d in found),
        error=ErrorAnswer(code=row.error_code, detail=row.error or "") if row.error_code else None,
        created_at=row.created_at,
        published_at=row.published_at,
    )


@router.get("/jobs/{job_id}", dependencies=[needs(Role.VIEWER)])
def show_job(job_id: Annotated[int, Path(ge=1, le=MAX_INTEGER)], registry: TheRegistry) -> JobAnswer:
    """How far a job is."""
    with registry.database.reading() as session:
        row = jobs.job(session, job_id)
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return _job_answer(row)


def _job_answer(row: Job) -> JobAnswer:
    return JobAnswer(
        id=row.id,
        kind=row.kind,
        state=row.state,
        progress=row.progress,
        step=row.step,
        attempts=row.attempts,
        error=ErrorAnswer(code=row.error_code, detail=row.error or "") if row.error_code else None,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
