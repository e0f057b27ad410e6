"""Claims on jobs, each in a transaction of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from server.bootstrap import Clock
from server.database import Database
from server.repositories import jobs
from server.tables import Job, JobState


@dataclass(frozen=True, slots=True)
class JobQueue:
    """One worker slot's view of the job table. ``owner`` names the slot among all of all workers."""

    database: Database
    owner: str
    lease_s: float
    clock: Clock

    def claim(self) -> Job | None:
        """The next job, leased to this owner; None when there is nothing to do."""
        now = self.clock()
        with self.database.reading() as session:
            if not jobs.any_claimable(session, now):
                return None
        with self.database.writing() as session:
            return jobs.claim(session, self.owner, now, self._lease(now))

    def renew(self, job: Job, progress: float, step: str) -> bool:
        """Show a sign of life. False: the lease was lost, and another worker has the job."""
        with self.database.writing() as session:
            return jobs.renew(session, job, self._lease(self.clock()), progress, step)

    def release(self, job: Job, *, after_s: float = 0.0) -> None:
        """Give the job back, to be claimed again not before ``after_s`` seconds from now."""
        with self.database.writing() as session:
            if after_s:
                jobs.renew(session, job, self.clock() + timedelta(seconds=after_s), 0.0, "wait for another try")
            else:
                jobs.finish(session, job, JobState.QUEUED, self.clock())

    def _lease(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self.lease_s)
