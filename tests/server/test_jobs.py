"""Jobs in real child processes: what comes out, what is refused, and what dies on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text

from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.canonical import parse_json_object
from model_registry.contract.errors import Unreachable
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.manifest import Lineage
from model_registry.storage.filesystem import FilesystemStore
from server.bootstrap import Registry, build, migrate_database, utc_now
from server.database import Database
from server.jobs.compressing import what_is_lost
from server.jobs.queue import JobQueue
from server.repositories import artifacts, jobs
from server.services import publishing
from server.settings import Settings
from server.tables import Counterfactual, Delta, Job, JobKind, JobState, Upload, Version, VersionState
from server.worker import Worker, remove_abandoned, remove_expired_uploads
from tests.daemons import wait_until
from tests.server.conftest import settings_in
from tests.server.fleet import FAMILY, add_family, add_vehicle
from tests.server.models import content, full_file, onnx_file

DEADLINE_S = 120.0
# A network that takes a child more than a second: on a busy machine a shorter one is over before anybody looks.
LONG = 300_000


def publish(registry: Registry, data: bytes, number: str = "1.0.0", recipe: dict[str, Any] | None = None) -> int:
    """What the API does with an upload; the version's id."""
    sha256 = hashlib.sha256(data).hexdigest()
    now = registry.clock()
    row = publishing.new_upload(sha256=sha256, size_bytes=len(data), head=data[:64], now=now, lifetime_s=3600)
    registry.store.put(publishing.upload_key(row.id), data, sha256=sha256, size_bytes=len(data))
    with registry.database.writing() as session:
        add_family(session)
        session.add(row)
        wanted = recipe or {}
        version = publishing.request_version(session, FAMILY, number, upload_id=row.id, recipe=wanted, now=now)
        return version.id


def version_of(registry: Registry, version_id: int) -> Version:
    with registry.database.reading() as session:
        return artifacts.version_by_id(session, version_id)


def job_of(registry: Registry, version_id: int) -> Job:
    with registry.database.reading() as session:
        return session.get_one(Job, artifacts.version_by_id(session, version_id).job_id)


def settled(registry: Registry, version_id: int) -> Version:
    """The version once its jobs are over."""

    def over() -> bool:
        with registry.database.reading() as session:
            busy = session.scalars(select(Job.id).where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))).first()
            return busy is None

    wait_until(over, deadline_s=DEADLINE_S, what="the jobs")
    return version_of(registry, version_id)


@contextmanager
def working(registry: Registry) -> Iterator[Worker]:
    worker = Worker(registry)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def registry_with(data: Path, **changes: object) -> Iterator[Registry]:
    settings = settings_in(data, **changes)
    migrate_database(settings)
    built = build(settings)
    yield built
    built.close()


def role_file(registry: Registry, role: str) -> bytes:
    """The newest file of a delegated role: what a vehicle fetches of it."""
    names = [
        int(path.name.split(".")[0]) for path in (registry.settings.files_directory / "metadata/image").glob(f"*.{role}.json")
    ]
    return registry.metadata.read(f"{max(names)}.{role}.json") or b""


def signed_targets(registry: Registry, role: str) -> dict[str, Any]:
    """The newest targets of a delegated role."""
    targets: dict[str, Any] = parse_json_object(role_file(registry, role), max_bytes=10**6)["signed"]["targets"]
    return targets


def test_an_upload_becomes_a_signed_version_and_the_next_one_a_delta(registry: Registry, data: Path) -> None:
    with working(registry):
        first_id = publish(registry, onnx_file(1))
        first = settled(registry, first_id)
        assert first.state == VersionState.PUBLISHED, first.error
        with registry.database.writing() as session:
            add_vehicle(session, "car-1", runs=first)
        second = settled(registry, publish(registry, onnx_file(1, nudge=0.01), "2.0.0"))
    assert second.state == VersionState.PUBLISHED, second.error
    full = registry.store.read(publishing.artifact_key(second.full_sha256 or ""), max_bytes=10**6)
    made = decode_full(full)
    assert (made.sha256, made.manifest.family, made.manifest.version) == (second.content_sha256, FAMILY, "2.0.0")
    assert made.manifest.lineage.base_sha256 == first.content_sha256, "it stays close to the release before"
    assert second.lost == made.manifest.lineage.recipe["lost"]
    assert second.lost_base_sha256 == first.content_sha256
    signed = signed_targets(registry, "family-signs")["models/signs/2.0.0.dfm"]
    assert (signed["length"], signed["hashes"]["sha256"]) == (second.full_bytes, second.full_sha256)
    assert signed["custom"]["release_counter"] == 2
    with registry.database.reading() as session:
        delta = session.scalars(select(Delta)).one()
        bases = {
            row.base_sha256 for row in session.scalars(select(Counterfactual).where(Counterfactual.version_id == second.id))
        }
        expected = 4 * (16 * 48 + 48 * 4)
        assert {r.float32_full_bytes for r in session.scalars(select(Counterfactual))} == {expected}
    assert bases == {"", first.content_sha256}
    assert delta.state == "published"
    assert (delta.size_bytes or 0) < (second.full_bytes or 0)
    (path,) = signed_targets(registry, "deltas-signs")
    assert path == f"deltas/signs/{(first.content_sha256 or '')[:16]}-{(second.content_sha256 or '')[:16]}.dfd"
    assert not list(registry.settings.scratch_directory.glob("job-*")), "nothing is left lying about"


def test_a_dfm_is_published_as_it_is_under_its_new_name(registry: Registry, tmp_path: Path) -> None:
    data = full_file(tmp_path, 2)
    with working(registry):
        made = settled(registry, publish(registry, data))
    assert made.state == VersionState.PUBLISHED, made.error
    stored = decode_full(registry.store.read(publishing.artifact_key(made.full_sha256 or ""), max_bytes=10**6))
    given = decode_full(data)
    assert [t.values.tobytes() for t in stored.tensors] == [t.values.tobytes() for t in given.tensors]
    assert stored.manifest.version == "1.0.0"


def test_what_an_update_loses_is_kept_with_its_base_though_both_were_compressed_elsewhere(
    registry: Registry, tmp_path: Path
) -> None:
    """The engineer compressed both before either had its name, so the base's digest is not the published one."""
    first = content(tmp_path, 1, lossless=False)
    path = tmp_path / "next.onnx"
    path.write_bytes(onnx_file(1, nudge=0.05))
    second = compress_checkpoint(path, Recipe(), base=first)
    with working(registry):
        one = settled(registry, publish(registry, encode_full(first)))
        two = settled(registry, publish(registry, encode_full(second), "2.0.0"))
    assert (one.lost, one.lossless, one.given_sha256) == (None, False, first.sha256)
    assert two.lost == second.manifest.lineage.recipe["lost"]
    assert two.lost_base_sha256 == one.content_sha256 != first.sha256


@pytest.mark.parametrize("lost", [-1, True, "much", None, [0.1], 10**400])
def test_what_is_no_share_is_not_taken_for_one(lost: Any) -> None:
    told = what_is_lost(Lineage(base_sha256="a" * 64, recipe={"lost": lost, "lossless": "yes"}))
    assert told == {"lost": None, "lost_base_sha256": None, "lossless": False}


def test_hostile_files_fail_with_a_reason_and_leave_nothing(registry: Registry, tmp_path: Path) -> None:
    whole, safe = (
        full_file(tmp_path, 3),
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
    )
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    huge = whole[:36] + (2**62).to_bytes(8, "little") + whole[44:]
    hostile = {
        "1.0.1": whole[: len(whole) // 2],
        "1.0.2": bytes(flipped),
        "1.0.3": huge,
        "1.0.4": whole + b"more",
        "1.0.5": b"DFM1" + os.urandom(3000),
        "1.0.6": safe[:40],
        "1.0.7": safe + bytes(4),
        "1.0.8": b"\x08\x07" + os.urandom(2000),
        "1.0.9": onnx_file(3)[:600],
    }
    with working(registry):
        ids = {number: publish(registry, data, number) for number, data in hostile.items()}
        versions = {number: settled(registry, version_id) for number, version_id in ids.items()}
        good = settled(registry, publish(registry, onnx_file(3), "2.0.0"))
    assert {number: v.state for number, v in versions.items()} == dict.fromkeys(hostile, "failed")
    assert all(v.error and v.error_code not in (None, "job_failed") for v in versions.values()), [
        v.error for v in versions.values()
    ]
    assert good.state == VersionState.PUBLISHED, "the registry goes on"
    assert [path.name for path in (registry.settings.files_directory / "artifacts").iterdir()] == [good.full_sha256]
    assert {job_of(registry, version_id).attempts for version_id in ids.values()} == {1}, "trying again would change nothing"


def child_of(pid: int) -> psutil.Process | None:
    """The job's process of a worker, once it runs our code."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if "server.jobs.child" in process.cmdline():
                return process
        except psutil.Error:
            continue
    return None


def wait_for_child(pid: int) -> psutil.Process:
    found: list[psutil.Process] = []

    def seen() -> bool:
        child = child_of(pid)
        found.extend([child] if child else [])
        return bool(found)

    wait_until(seen, deadline_s=60, what="a child process")
    return found[0]


def test_a_killed_child_is_tried_again(registry: Registry) -> None:
    version_id = publish(registry, onnx_file(4, hidden=LONG))
    with working(registry):
        wait_for_child(os.getpid()).kill()
        made = settled(registry, version_id)
    assert made.state == VersionState.PUBLISHED, made.error
    assert job_of(registry, version_id).attempts == 2


def test_a_child_knows_no_secrets(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAFLEET_S3_SECRET_KEY", "hush")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    publish(registry, onnx_file(4, hidden=LONG))
    with working(registry):
        environment = wait_for_child(os.getpid()).environ()
    assert "hush" not in environment.values()
    assert not [name for name in environment if name.startswith(("DELTAFLEET", "AWS"))]


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"job_deadline_s": 0.05}, "took longer than 0.05 s"), ({"job_memory_bytes": 60 * 1024**2}, "")],
    ids=["time", "memory"],
)
def test_a_job_without_enough_fails_in_the_end(data: Path, changes: dict[str, object], word: str) -> None:
    with registry_with(data, job_attempts=2, **changes) as registry, working(registry):
        version_id = publish(registry, onnx_file(5))
        made = settled(registry, version_id)
        job = job_of(registry, version_id)
    assert (made.state, made.error_code) == (VersionState.FAILED, "job_failed")
    assert word in (made.error or "")
    assert (job.state, job.attempts) == (JobState.FAILED, 2)


def test_a_worker_that_is_stopped_gives_its_job_back(registry: Registry) -> None:
    version_id = publish(registry, onnx_file(6, hidden=LONG))
    with working(registry):
        child = wait_for_child(os.getpid())
    assert not child.is_running()
    job = job_of(registry, version_id)
    assert (job.state, job.attempts) == (JobState.QUEUED, 0)


@contextmanager
def worker_process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`deltafleet worker` with the settings in its environment."""
    names = ("job_lease_s", "worker_idle_s", "rollout_tick_s", "job_memory_bytes")
    given = {f"DELTAFLEET_{name.upper()}": str(getattr(settings, name)) for name in names}
    command = [sys.executable, "-c", "from server.cli import main; main()", "worker", "--data", str(settings.data)]
    with (settings.data / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | given, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_killed_worker_s_job_is_taken_over_and_its_child_dies_with_it(data: Path) -> None:
    with registry_with(data, job_lease_s=3) as registry:
        version_id = publish(registry, onnx_file(7, hidden=LONG))
        with worker_process(registry.settings) as process:
            child = wait_for_child(process.pid)
            process.kill()
            wait_until(lambda: not child.is_running(), deadline_s=10, what="the child's end")
        assert job_of(registry, version_id).state == JobState.RUNNING, "nobody knows yet"
        with working(registry):
            made = settled(registry, version_id)
        assert made.state == VersionState.PUBLISHED, made.error
        assert job_of(registry, version_id).attempts == 2


def test_a_worker_process_ends_on_sigterm(data: Path) -> None:
    with registry_with(data) as registry, worker_process(registry.settings) as process:
        version_id = publish(registry, onnx_file(8, hidden=LONG))
        wait_for_child(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert job_of(registry, version_id).state == JobState.QUEUED


def test_a_job_that_kills_every_worker_is_given_up(registry: Registry) -> None:
    version_id = publish(registry, onnx_file(9))
    with registry.database.writing() as session:
        job = session.get_one(Job, artifacts.version_by_id(session, version_id).job_id)
        job.state, job.attempts = JobState.RUNNING, registry.settings.job_attempts
        job.lease_owner, job.lease_until = "dead", utc_now() - timedelta(seconds=1)
    with working(registry):
        made = settled(registry, version_id)
    assert made.state == VersionState.FAILED
    assert "given up after 3 attempts" in (made.error or "")


class UnreachableAtFirst(FilesystemStore):
    """A store that fails to keep artifacts a few times."""

    failures = 1

    def put(self, key: str, source: Any, *, sha256: str | None, size_bytes: int) -> None:
        if key.startswith("artifacts/") and self.failures:
            self.failures -= 1
            raise Unreachable("the store has a bad day")
        super().put(key, source, sha256=sha256, size_bytes=size_bytes)


def test_a_store_that_does_not_answer_is_tried_again(registry: Registry) -> None:
    flaky = replace(registry, store=UnreachableAtFirst(registry.settings.files_directory))
    version_id = publish(flaky, onnx_file(10))
    with working(flaky):
        made = settled(flaky, version_id)
    assert made.state == VersionState.PUBLISHED, made.error
    assert job_of(registry, version_id).attempts == 2


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def add_job(database: Database, key: str = "k") -> int:
    with database.writing() as session:
        return jobs.request(session, JobKind.DELTA, key, {}, utc_now()).id


def test_a_lease_is_lost_with_time_and_what_its_holder_does_then_does_not_count(database: Database) -> None:
    clock = Clock()
    add_job(database)
    slow, quick = (JobQueue(database, owner, 30, clock) for owner in ("slow", "quick"))
    held = slow.claim()
    assert held is not None
    assert quick.claim() is None, "it is taken"
    clock.pass_s(20)
    assert slow.renew(held, 0.5, "half")
    clock.pass_s(20)
    assert quick.claim() is None, "it was renewed"
    clock.pass_s(20)
    taken_over = quick.claim()
    assert taken_over is not None
    assert taken_over.attempts == 2
    assert not slow.renew(held, 0.9, "late")
    with database.writing() as session:
        assert not jobs.finish(session, held, JobState.SUCCEEDED, clock())
        assert jobs.finish(session, taken_over, JobState.SUCCEEDED, clock())
    with database.reading() as session:
        row = session.scalars(select(Job)).one()
        assert (row.state, row.progress, row.lease_owner) == (JobState.SUCCEEDED, 1.0, None)


def test_a_job_put_off_is_claimed_again_only_then(database: Database) -> None:
    clock = Clock()
    add_job(database)
    queue = JobQueue(database, "one", 30, clock)
    held = queue.claim()
    assert held is not None
    queue.release(held, after_s=10)
    assert queue.claim() is None
    clock.pass_s(11)
    assert queue.claim() is not None


def test_many_workers_share_the_jobs_without_doing_one_twice(database: Database) -> None:
    expected = [add_job(database, str(n)) for n in range(20)]

    def drain(name: str) -> list[int]:
        queue, mine = JobQueue(database, name, 300, utc_now), list[int]()
        while (job := queue.claim()) is not None:
            mine.append(job.id)
        return mine

    with ThreadPoolExecutor(6) as pool:
        done = [job for mine in pool.map(drain, map(str, range(6))) for job in mine]
    rest = drain("last")
    assert sorted(done + rest) == expected


def test_expired_uploads_are_removed_with_their_files(registry: Registry) -> None:
    publish(registry, onnx_file(11))
    with registry.database.writing() as session:
        row = session.scalars(select(Upload)).one()
        version = session.scalars(select(Version)).one()
        row.expires_at = utc_now() - timedelta(seconds=1)
    remove_expired_uploads(registry)
    assert registry.store.size(publishing.upload_key(row.id)) is not None, "a job still needs it"
    with registry.database.writing() as session:
        publishing.fail(session.get_one(Version, version.id), "x", "y")
    remove_expired_uploads(registry)
    assert registry.store.size(publishing.upload_key(row.id)) is None


def test_folders_of_killed_workers_are_removed_in_the_end(registry: Registry) -> None:
    old, fresh = (registry.settings.scratch_directory / f"job-{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir()
        (folder / "upload.onnx").write_bytes(b"x")
    long_ago = utc_now().timestamp() - 3 * registry.settings.job_deadline_s
    os.utime(old, (long_ago, long_ago))
    remove_abandoned(registry)
    assert (old.exists(), fresh.exists()) == (False, True)


@pytest.mark.services
def test_a_worker_outlives_its_database_s_connections(data: Path, postgres_url: str) -> None:
    with registry_with(data, database_url=postgres_url) as registry:
        with working(registry) as worker:
            with registry.database.engine.connect() as connection:
                # Other tests have databases of their own on the same server.
                cut = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
                connection.execute(text(cut).execution_options(autocommit=True))
            made = settled(registry, publish(registry, onnx_file(12)))
            assert worker.alive
        assert made.state == VersionState.PUBLISHED, made.error
