"""From upload to published version: names, numbers, idempotency, and which deltas are asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from model_registry.contract.errors import MalformedArtifact, Refusal, UnsupportedArtifact
from server.bootstrap import utc_now
from server.database import Database
from server.errors import Conflict, InvalidRequest, NotFound
from server.repositories import artifacts, jobs
from server.services import deltas, publishing
from server.services.deltas import MadeDelta, worth_keeping
from server.services.planning import DEFAULT_BOUNDS
from server.services.publishing import UploadKind, upload_kind
from server.tables import Delta, DeltaState, Job, JobKind, JobState, Upload, Version, VersionState
from tests.server.fleet import FAMILY, add_family, add_vehicle, add_version, digest


def add_upload(database: Database, text: str = "weights", *, age_s: float = 0) -> str:
    now = utc_now() - timedelta(seconds=age_s)
    row = publishing.new_upload(sha256=digest(text), size_bytes=9, head=b"\x08\x07\x12\x00", now=now, lifetime_s=3600)
    with database.writing() as session:
        add_family(session)
        session.add(row)
    return row.id


def request(database: Database, upload_id: str, number: str = "1.0.0", recipe: dict[str, Any] | None = None) -> Version:
    with database.writing() as session:
        return publishing.request_version(session, FAMILY, number, upload_id=upload_id, recipe=recipe or {}, now=utc_now())


def count(database: Database, table: type[Any]) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def fail(database: Database, version: Version) -> None:
    with database.writing() as session:
        row = session.get_one(Version, version.id)
        publishing.fail(row, "model_unusable", "it does not run")
        session.get_one(Job, row.job_id).state = JobState.FAILED


def test_asking_twice_is_asking_once(database: Database) -> None:
    upload_id = add_upload(database)
    first, again = request(database, upload_id), request(database, upload_id)
    assert (first.id, first.job_id, first.release_counter) == (again.id, again.job_id, again.release_counter)
    assert count(database, Job) == count(database, Version) == 1


def test_the_same_bytes_sent_again_are_the_same_request(database: Database) -> None:
    first = request(database, add_upload(database, "same"))
    again = request(database, add_upload(database, "same"))
    assert (first.id, first.job_id) == (again.id, again.job_id)


def test_the_answer_survives_the_upload(database: Database) -> None:
    upload_id = add_upload(database)
    first = request(database, upload_id)
    with database.writing() as session:
        session.delete(session.get_one(Upload, upload_id))
    assert request(database, upload_id).id == first.id


@pytest.mark.parametrize("recipe", [{}, {"lossless": True}])
def test_a_version_is_taken_by_its_first_file_and_recipe(database: Database, recipe: dict[str, Any]) -> None:
    request(database, add_upload(database, "first"))
    other = add_upload(database, "first" if recipe else "second")
    with pytest.raises(Conflict, match="another file or recipe"):
        request(database, other, recipe=recipe)


def test_racing_publishers_agree_on_one_version(database: Database) -> None:
    uploads = [add_upload(database, f"weights {n}") for n in range(6)]

    def race(upload_id: str) -> int | None:
        try:
            return request(database, upload_id).id
        except Conflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        winners = [found for found in pool.map(race, uploads) if found is not None]
    assert len(winners) == 1
    assert count(database, Version) == 1


def test_release_counters_grow_without_gaps_under_concurrency(database: Database) -> None:
    uploads = [add_upload(database, f"weights {n}") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        rows = pool.map(lambda n: request(database, uploads[n], f"1.{n}.0"), range(6))
    assert sorted(row.release_counter for row in rows) == [1, 2, 3, 4, 5, 6]


def test_a_failed_version_may_be_tried_again_with_another_file(database: Database) -> None:
    first = request(database, add_upload(database, "broken"))
    fail(database, first)
    again = request(database, add_upload(database, "mended"))
    assert (again.id, again.release_counter, again.state) == (first.id, first.release_counter, VersionState.PROCESSING)
    with database.reading() as session:
        job = session.get_one(Job, again.job_id)
        assert (job.state, job.attempts, job.error) == (JobState.QUEUED, 0, None)
        assert session.get_one(Version, again.id).error is None


@pytest.mark.parametrize("number", ["1", "1.0", "v1.0.0", "1.0.0+build", "", "1.0.0-" + "x" * 80, "01.0.0"])
def test_a_version_is_semantic(database: Database, number: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a version"):
        request(database, add_upload(database), number)


def test_an_upload_that_is_unknown_or_expired_is_not_found(database: Database) -> None:
    expired = add_upload(database, age_s=3601)
    for upload_id in (expired, "0" * 32):
        with pytest.raises(NotFound, match="upload the file again"):
            request(database, upload_id)


def test_a_family_is_for_one_hardware(database: Database) -> None:
    with database.writing() as session:
        assert publishing.ensure_family(session, "lidar", "ecu-1", utc_now())[1]
        assert not publishing.ensure_family(session, "lidar", "ecu-1", utc_now())[1]
        with pytest.raises(Conflict, match="ecu-1, not ecu-2"):
            publishing.ensure_family(session, "lidar", "ecu-2", utc_now())
        for name in ("Lidar", "", "../x", "a/b", "a" * 65, "ü"):
            with pytest.raises(InvalidRequest):
                publishing.ensure_family(session, name, "ecu-1", utc_now())


def test_uploads_in_use_do_not_expire(database: Database) -> None:
    used, unused = add_upload(database, "used"), add_upload(database, "unused")
    version = request(database, used)
    tomorrow = utc_now() + timedelta(days=1)

    def expired() -> list[str]:
        with database.reading() as session:
            return sorted(row.id for row in artifacts.expired_uploads(session, tomorrow, limit=10))

    assert expired() == [unused]
    fail(database, version)
    assert expired() == sorted([used, unused])


FULL_HEAD = b"DFM1" + bytes(32) + (1000).to_bytes(8, "little")
SAFETENSORS_HEAD = (100).to_bytes(8, "little") + b'{"a":{}}'


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (FULL_HEAD, UploadKind.FULL),
        (SAFETENSORS_HEAD, UploadKind.SAFETENSORS),
        (b"\x08\x08\x12\x04", UploadKind.ONNX),
    ],
)
def test_a_file_is_what_its_first_bytes_say(head: bytes, kind: UploadKind) -> None:
    assert upload_kind(head) is kind


@pytest.mark.parametrize(
    ("head", "refusal", "word"),
    [
        (b"", UnsupportedArtifact, "no .dfm"),
        (b"hello", UnsupportedArtifact, "no .dfm"),
        (b"DFM1\x00\x00", MalformedArtifact, "ends too early"),
        (b"DFD1" + bytes(60), UnsupportedArtifact, "no .dfm"),
        (b"PK\x03\x04" + bytes(60), UnsupportedArtifact, "torch checkpoint"),
        ((2**60).to_bytes(8, "little") + b"{}", UnsupportedArtifact, "no .dfm"),
        (b"\x08", UnsupportedArtifact, "no .dfm"),
    ],
)
def test_other_files_are_refused_at_the_door(head: bytes, refusal: type[Refusal], word: str) -> None:
    with pytest.raises(refusal, match=word):
        upload_kind(head)


def test_only_a_delta_that_saves_bytes_is_worth_keeping() -> None:
    assert worth_keeping(999, 1000)
    assert not worth_keeping(1000, 1000)


def test_deltas_are_asked_for_once_and_again_after_failing(database: Database) -> None:
    with database.writing() as session:
        old, older = add_version(session, "1.0.0"), add_version(session, "2.0.0")
        target = add_version(session, "3.0.0")
        add_vehicle(session, "car-1", runs=old)
        for _ in range(2):
            deltas.plan(session, target, limit=8, bounds=DEFAULT_BOUNDS, now=utc_now())
    with database.reading() as session:
        found = session.scalars(select(Delta)).all()
        assert {d.base_id for d in found} == {old.id, older.id}
        assert len(session.scalars(select(Job)).all()) == 2
    with database.writing() as session:
        lost = session.scalars(select(Delta).where(Delta.base_id == old.id)).one()
        deltas.fail(lost)
        session.get_one(Job, lost.job_id).state = JobState.FAILED
        deltas.plan(session, target, limit=8, bounds=DEFAULT_BOUNDS, now=utc_now())
        session.flush()
        assert lost.state == DeltaState.QUEUED
        assert session.get_one(Job, lost.job_id).state == JobState.QUEUED


def test_vehicles_of_other_families_and_strangers_do_not_shape_the_deltas(database: Database) -> None:
    with database.writing() as session:
        old = add_version(session, "1.0.0")
        add_version(session, "2.0.0")
        target = add_version(session, "3.0.0")
        foreign = add_version(session, "1.0.0", family="lidar")
        add_vehicle(session, "car-1", runs=old)
        add_vehicle(session, "car-2", runs=foreign)
        add_vehicle(session, "car-3", runs=target)
        rejected = add_vehicle(session, "car-4", runs=old)
        rejected.state = "rejected"
        session.flush()
        assert artifacts.installed_histogram(session, target) == {old.content_sha256: 1}


def test_an_unprofitable_delta_keeps_its_figures_and_is_not_offered(database: Database) -> None:
    with database.writing() as session:
        base, target = add_version(session, "1.0.0"), add_version(session, "2.0.0")
        deltas.plan(session, target, limit=8, bounds=DEFAULT_BOUNDS, now=utc_now())
        delta = session.scalars(select(Delta)).one()
        deltas.finish(session, delta, MadeDelta("zstd", digest("d"), 2000, 20_000, 1000, 700), published=False)
        assert artifacts.legs(session, FAMILY, counters=(base.release_counter, target.release_counter)) == []
        assert delta.state == DeltaState.DROPPED


def test_a_job_asked_for_while_it_runs_is_the_same_job(database: Database) -> None:
    with database.writing() as session:
        first = jobs.request(session, JobKind.DELTA, "k", {"n": 1}, utc_now())
        again = jobs.request(session, JobKind.DELTA, "k", {"n": 2}, utc_now())
        assert first is again
        assert again.payload == {"n": 1}
