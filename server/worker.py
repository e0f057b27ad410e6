"""The worker: takes jobs, runs each in a child process, and does what is due by the clock.

It runs inside ``deltafleet serve`` on one machine and by itself as ``deltafleet worker``, any number of times. A worker that is
told to stop gives its jobs back; one that is killed loses them to another when their leases end.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from model_registry.contract.errors import Refusal, Unreachable
from server.bootstrap import Registry
from server.errors import JobFailed
from server.jobs import retiring
from server.jobs.handlers import HANDLERS, LeaseLost
from server.jobs.process import ChildRefused, ChildStopped, Verdict, run_child
from server.jobs.queue import JobQueue
from server.repositories import artifacts, jobs, rollouts
from server.services import publishing, waves
from server.tables import Job, JobState

log = logging.getLogger(__name__)
FOLDER_PREFIX = "job-"
EXPIRED_AT_ONCE = 100


class Worker:
    """``slots`` jobs at a time, each from a thread of its own, and one thread for the clock."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._stopping = threading.Event()
        self._unnamed: tuple[str, ...] = ()
        name = f"{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        slots = registry.settings.worker_slots
        self._threads = [threading.Thread(target=self._work, args=(f"{name}-{n}",), name=f"job-{n}") for n in range(slots)]
        self._threads.append(threading.Thread(target=self._keep_time, name="clock"))

    def start(self) -> None:
        self._registry.settings.scratch_directory.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self._registry)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give running jobs back and end. Returns when all threads have ended."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def _work(self, owner: str) -> None:
        settings = self._registry.settings
        queue = JobQueue(self._registry.database, owner, settings.job_lease_s, self._registry.clock)
        while not self._stopping.is_set():
            if not self._survive(lambda: run_next(self._registry, queue, self._stopping)):
                self._stopping.wait(settings.worker_idle_s)

    def _keep_time(self) -> None:
        settings = self._registry.settings
        next_round = time.monotonic()
        while not self._stopping.wait(settings.rollout_tick_s):
            if time.monotonic() >= next_round:
                next_round = time.monotonic() + settings.refresh_interval_s
                self._survive(lambda: refresh_metadata(self._registry))
                self._survive(lambda: remove_expired_uploads(self._registry))
                self._survive(lambda: retiring.retire_unneeded(self._registry))
                self._survive(lambda: retiring.remove_files(self._registry))
            self._survive(lambda: retiring.withdraw(self._registry))
            self._survive(self._name_again)
            self._survive(lambda: tick_rollouts(self._registry))

    def _name_again(self) -> None:
        """What waits is told once, not with every tick."""
        unnamed = retiring.name_again(self._registry)
        if unnamed != self._unnamed:
            self._unnamed = unnamed
            for line in unnamed:
                log.warning("%s", line)

    def _survive(self, step: Callable[[], bool | None]) -> bool:
        """Take one step. What goes wrong in it is logged and tried again; a worker outlives its database's restarts."""
        try:
            return bool(step())
        except (Refusal, SQLAlchemyError, OSError) as exc:
            log.warning("the worker goes on after: %s", exc)
            self._stopping.wait(self._registry.settings.job_retry_s)
        except Exception:
            log.exception("the worker goes on after an error that should not be")
            self._stopping.wait(self._registry.settings.job_retry_s)
        return False


def run_next(registry: Registry, queue: JobQueue, stopping: threading.Event) -> bool:
    """Claim a job and bring it to an end. False when there was none."""
    job = queue.claim()
    if job is None:
        return False
    if job.attempts > registry.settings.job_attempts:
        tried = registry.settings.job_attempts
        fail(registry, job, Verdict(JobFailed.code, f"given up after {tried} attempts, each of which ended with its worker"))
        return True
    log.info("job %d (%s), attempt %d", job.id, job.key, job.attempts)
    try:
        _run(registry, queue, job, stopping)
    except (LeaseLost, ChildStopped):
        log.info("job %d: left to another worker", job.id)
    except ChildRefused as exc:
        fail(registry, job, exc.verdict)
    except (Unreachable, JobFailed, SQLAlchemyError) as exc:
        _try_again(registry, queue, job, exc)
    except Refusal as exc:
        fail(registry, job, Verdict.of(exc))
    except Exception as exc:
        log.exception("job %d: an error that should not be", job.id)
        _try_again(registry, queue, job, exc)
    return True


def _run(registry: Registry, queue: JobQueue, job: Job, stopping: threading.Event) -> None:
    settings, handler = registry.settings, HANDLERS[job.kind]
    with (
        tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=settings.scratch_directory) as name,
        Heartbeat(queue, job, min(settings.job_lease_s / 3, 1.0)) as heart,
    ):
        folder = Path(name).absolute()
        task = handler.task(registry, job, folder)
        if task is None:
            with registry.database.writing() as session:
                jobs.finish(session, job, JobState.SUCCEEDED, registry.clock())
            return
        try:
            result = run_child(
                task,
                folder,
                memory_bytes=settings.job_memory_bytes,
                deadline_s=settings.job_deadline_s,
                threads=max(1, (os.cpu_count() or 1) // settings.worker_slots),
                beat=lambda progress, step: heart.note(progress, step) and not stopping.is_set(),
            )
        except ChildStopped:
            queue.release(job)
            raise
        heart.note(0.99, "store and sign")
        handler.complete(registry, job, folder, result)


class Heartbeat:
    """Renews a job's lease for as long as it is worked on, and writes down how far it is."""

    def __init__(self, queue: JobQueue, job: Job, interval_s: float) -> None:
        self._queue, self._job, self._interval_s = queue, job, interval_s
        self._now = (0.0, "prepare")
        self._held = True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def note(self, progress: float, step: str) -> bool:
        """Say how far the job is; False when its lease was lost and the work is in vain."""
        self._now = (progress, step)
        return self._held

    def _beat(self) -> None:
        while self._held and not self._over.is_set():
            with suppress(SQLAlchemyError):  # the lease outlasts a short outage
                self._held = self._queue.renew(self._job, *self._now)
            self._over.wait(self._interval_s)


def fail(registry: Registry, job: Job, verdict: Verdict) -> None:
    """End a job without a result, and say so where its result would have been."""
    log.warning("job %d (%s) failed: %s", job.id, job.key, verdict.text)
    with registry.database.writing() as session:
        if jobs.finish(session, job, JobState.FAILED, registry.clock(), code=verdict.code, error=verdict.text):
            HANDLERS[job.kind].fail(session, job, verdict)


def _try_again(registry: Registry, queue: JobQueue, job: Job, exc: Exception) -> None:
    if job.attempts >= registry.settings.job_attempts:
        verdict = Verdict.of(exc) if isinstance(exc, Refusal) else Verdict(JobFailed.code, f"{type(exc).__name__}: {exc}")
        fail(registry, job, verdict)
        return
    log.warning("job %d: attempt %d failed, another follows: %s", job.id, job.attempts, exc)
    with suppress(SQLAlchemyError):  # the lease ends by itself
        queue.release(job, after_s=registry.settings.job_retry_s * job.attempts)


def tick_rollouts(registry: Registry) -> None:
    """Let every running rollout do what is due."""
    with registry.database.reading() as session:
        running = rollouts.running_ids(session)
    for rollout_id in running:
        with registry.database.writing() as session:
            waves.tick(session, rollout_id, registry.clock(), registry.bounds)


def refresh_metadata(registry: Registry) -> None:
    """Sign again what nears its expiry."""
    with registry.database.signing():
        refreshed = registry.image_repository.refresh()
    if refreshed.waiting:
        log.warning("signatures near their end wait for keys that are not here: %s", ", ".join(refreshed.waiting))


def remove_expired_uploads(registry: Registry) -> None:
    """Forget files that were sent and not used in time."""
    with registry.database.writing() as session:
        expired = artifacts.expired_uploads(session, registry.clock(), limit=EXPIRED_AT_ONCE)
        for upload in expired:
            session.delete(upload)
    for upload in expired:
        registry.store.delete(publishing.upload_key(upload.id))


def remove_abandoned(registry: Registry) -> None:
    """Remove folders of jobs whose worker was killed, once no job can be using them."""
    oldest = registry.clock() - timedelta(seconds=2 * registry.settings.job_deadline_s)
    for folder in registry.settings.scratch_directory.glob(f"{FOLDER_PREFIX}*"):
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime < oldest.timestamp():
                shutil.rmtree(folder, ignore_errors=True)
