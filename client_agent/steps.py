"""What each state does, in the order a model travels: check in, resolve, download, rebuild, prove, swap, watch, report.

A step returns how it ended (``states.Event``) and what the journal shall remember. It may raise any Refusal; Unreachable means
that the network was silent and the machine will come back. Every step may be repeated: a crash can fall behind its last effect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from client_agent.config import Config
from client_agent.downloader import Downloader, SignedFile, Staging
from client_agent.inference.engine import Engine
from client_agent.inference.live import Counters, Live
from client_agent.journal import DurableFile, Failure, Journal, Progress
from client_agent.machine import Step
from client_agent.rebuild import Coded, Job, rebuild
from client_agent.registry import Registry
from client_agent.reports import ReportQueue
from client_agent.selftest import prove
from client_agent.slots import Mark, Record, SlotName, Slots
from client_agent.states import Event, State
from client_agent.stop import StopSignal
from client_agent.tally import Tally
from client_agent.transport import HttpStatus, HttpTransport
from model_registry.contract.errors import ContentMismatch, LimitExceeded, Refusal, Unreachable, Untrusted
from model_registry.contract.messages import Assignment, BytesReceived, DeploymentState, Hop, VehicleReport

if TYPE_CHECKING:
    from client_agent.trust import VerifiedFile, VerifiedTarget

log = logging.getLogger(__name__)
# How often the network may fail one deployment, with growing pauses, before the registry is told so.
MAX_ATTEMPTS = 20
# A delta that is not there, or no longer, will not come back.
GONE = (403, 404, 410)
T = TypeVar("T")


class Repositories(Protocol):
    """Signed metadata, verified (``repositories.TrustedRepositories``)."""

    def resolve(self, *, counter_floor: int) -> VerifiedTarget | None: ...

    def chain(self, hops: Sequence[Hop], *, base_sha256: str) -> tuple[VerifiedFile, ...]: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps work with; put together in ``agent``."""

    config: Config
    journal: Journal
    slots: Slots
    staging: Staging
    registry: Registry
    repositories: Callable[[], Repositories]
    transport: HttpTransport
    reports: ReportQueue
    tally: Tally
    live: Live
    counters: DurableFile[Counters]
    stop: StopSignal


class Steps:
    """One method a state. Between states it remembers what signed metadata said; a restart forgets that, and resolves again."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._downloader = Downloader(parts.staging, parts.stop)
        self._target: VerifiedTarget | None = None
        self._chain: tuple[VerifiedFile, ...] = ()
        self._candidate: Engine | None = None

    def table(self) -> dict[State, Step]:
        return {
            State.CHECKING: self.check_in,
            State.RESOLVING: self.resolve,
            State.DOWNLOADING_DELTA: self.download_delta,
            State.PATCHING: self.patch,
            State.DOWNLOADING_FULL: self.download_full,
            State.UNPACKING: self.unpack,
            State.SELF_TESTING: self.test,
            State.SWAPPING: self.swap,
            State.PROBATION: self.watch,
            State.RETURNING: self.go_back,
            State.REPORTING: self.report_end,
        }

    def check_in(self, progress: Progress) -> tuple[Event, Progress]:
        """Send what waits, say what runs, learn what shall."""
        parts = self._parts
        parts.reports.try_flush()
        running = parts.slots.index.running
        counters = parts.live.counters
        parts.counters.write({"served": counters.served, "failed": counters.failed})
        answer = parts.registry.check_in(
            running.installed if running else None, served=counters.served, failed=counters.failed, etag=progress.etag
        )
        if answer.instruction is not None:
            progress = replace(progress, instruction=answer.instruction, etag=answer.etag)
        return self._assigned(replace(progress, failure=None))

    def _assigned(self, progress: Progress) -> tuple[Event, Progress]:
        assignment = progress.instruction.assignment if progress.instruction else None
        if assignment is None or assignment.deployment_id == progress.finished:
            self._parts.staging.keep_only()
            return Event.NOTHING_NEW, replace(progress, assignment=None)
        if progress.assignment is None or progress.assignment.deployment_id != assignment.deployment_id:
            self._parts.tally.received = BytesReceived()
            progress = replace(progress, attempts=0, restarts=0)
        progress = replace(progress, assignment=assignment)
        running = self._parts.slots.index.running
        if running is not None and running.mark is Mark.GOOD and running.sha256 == assignment.content_sha256:
            return Event.ALREADY_RUNNING, progress
        if progress.attempts >= MAX_ATTEMPTS:
            failure = Failure(Unreachable.code, f"the network failed this deployment {progress.attempts} times")
            return Event.TRIED_TOO_OFTEN, replace(progress, failure=failure)
        return Event.ASSIGNED, progress

    def resolve(self, progress: Progress) -> tuple[Event, Progress]:
        """Verify both repositories: what they agree on is what will run, and what the deltas to it must be."""
        assignment = _assignment(progress)
        repositories = self._parts.repositories()
        self._target = target = repositories.resolve(counter_floor=self._parts.slots.index.counter_floor)
        self._chain = ()
        if target is None:
            return Event.NOTHING_NEW, replace(progress, assignment=None)
        if target.full.family != self._parts.config.family:
            raise Untrusted(f"the director assigns the family {target.full.family!r} to a vehicle of another")
        if target.full.content_sha256 != assignment.content_sha256:
            raise Unreachable("the director's metadata and the check-in name different models; one of them is about to change")
        try:
            self._chain = self._offered_chain(repositories, assignment, asked_before=progress.attempts > 0)
        except Unreachable:
            raise
        except Refusal as exc:
            log.warning("no delta: %s", exc)
            progress = replace(progress, failure=Failure.of(exc))
        self._parts.staging.keep_only(target.sha256, *(delta.sha256 for delta in self._chain))
        return (Event.DELTA_OFFERED if self._chain else Event.FULL_OFFERED), progress

    def _offered_chain(
        self, repositories: Repositories, assignment: Assignment, *, asked_before: bool
    ) -> tuple[VerifiedFile, ...]:
        """The deltas that lead from what runs to the target; none when none are offered. Within this vehicle's own limits."""
        from client_agent.trust import HopUnknown, check_chain  # noqa: PLC0415 - brings the TUF client, as the repositories do

        parts = self._parts
        slot, running, hops = parts.slots.index.active, parts.slots.index.running, assignment.hops
        if not hops or slot is None or running is None:
            return ()
        if len(hops) > parts.config.max_hops:
            raise LimitExceeded(f"{len(hops)} deltas are offered, at most {parts.config.max_hops} are taken")
        try:
            chain = repositories.chain(hops, base_sha256=running.sha256)
        except HopUnknown as exc:
            if asked_before:
                raise
            raise Unreachable(f"{exc.message}; it may have been retired just now, so the registry is asked again") from exc
        check_chain(chain, base_bytes=parts.slots.size_bytes(slot), max_held_bytes=parts.config.max_held_bytes)
        return chain

    def download_delta(self, progress: Progress) -> tuple[Event, Progress]:
        """The short way. Silence is waited out; any other trouble leads to the full artifact."""
        self._report(progress, DeploymentState.DOWNLOADING)
        try:
            for delta in _chain(self._chain):
                self._fetch(progress, delta, self._parts.tally.add_delta)
        except HttpStatus as exc:
            if exc.status not in GONE:
                raise
            return Event.DELTA_UNUSABLE, replace(progress, failure=Failure.of(exc))
        except Unreachable:
            raise
        except Refusal as exc:
            return Event.DELTA_UNUSABLE, replace(progress, failure=Failure.of(exc))
        return Event.DOWNLOADED, progress

    def patch(self, progress: Progress) -> tuple[Event, Progress]:
        """Rebuild the new content from the running one and the deltas; what lies in between stays in the child's memory."""
        chain, slots = _chain(self._chain), self._parts.slots
        base = slots.index.find(chain[0].delta.base_sha256)
        staging = self._parts.staging
        coded = [Coded(staging.path(f.sha256), f.delta.content_sha256, f.content_bytes) for f in chain]
        try:
            if base is None:
                raise ContentMismatch("the base of the delta is not installed")
            self._rebuild(progress, coded, slots.path(base))
        except Refusal as exc:
            log.warning("the delta is of no use, taking the full artifact: %s", exc)
            return Event.DELTA_UNUSABLE, replace(progress, failure=Failure.of(exc))
        return Event.REBUILT, progress

    def download_full(self, progress: Progress) -> tuple[Event, Progress]:
        """The long way."""
        self._report(progress, DeploymentState.DOWNLOADING)
        self._fetch(progress, _known(self._target), self._parts.tally.add_full)
        return Event.DOWNLOADED, progress

    def unpack(self, progress: Progress) -> tuple[Event, Progress]:
        """Rebuild the new content from the full artifact."""
        target = _known(self._target)
        artifact = self._parts.staging.path(target.sha256)
        self._rebuild(progress, [Coded(artifact, target.full.content_sha256, target.full.content_bytes)], None)
        return Event.REBUILT, progress

    def _fetch(self, progress: Progress, file: SignedFile, count: Callable[[int], None]) -> None:
        def checkpoint() -> None:
            self._parts.journal.write(replace(progress, received=self._parts.tally.received))

        self._downloader.fetch(self._parts.transport.counting(count), file, checkpoint)

    def _rebuild(self, progress: Progress, artifacts: Sequence[Coded], base: Path | None) -> None:
        """Decode into the free slot, in a child process with limits."""
        parts = self._parts
        full = _known(self._target).full
        self._report(progress, DeploymentState.REBUILDING)
        # Once as the child's output, once in the slot.
        parts.staging.require_space(2 * full.content_bytes)
        out = parts.staging.path(f"{full.content_sha256}.content")
        rebuild(Job(base, tuple(artifacts), out), deadline_s=parts.config.rebuild_s, stop=parts.stop)
        record = Record(full.content_sha256, full.family, full.version, full.release_counter)
        parts.slots.store(record, out.read_bytes())
        out.unlink()

    def test(self, progress: Progress) -> tuple[Event, Progress]:
        """Load the new content beside the running model and let it prove itself."""
        self._report(progress, DeploymentState.TESTING)
        self._candidate = prove(self._parts.slots.load(self._slot(progress)))
        return Event.PROVEN, progress

    def swap(self, progress: Progress) -> tuple[Event, Progress]:
        """First on disk, so that a restart agrees; then in memory, where clients notice nothing."""
        self._parts.slots.activate(self._slot(progress))
        self._parts.live.put(_known(self._candidate))
        self._candidate = None
        return Event.SWAPPED, progress

    def watch(self, progress: Progress) -> tuple[Event, Progress]:
        """Probation: the new model answers, and its faults are counted."""
        parts = self._parts
        slot = self._slot(progress)
        self._report(progress, DeploymentState.PROBATION)
        if parts.live.sha256 != _assignment(progress).content_sha256:
            return Event.UNHEALTHY, replace(progress, failure=Failure("model_unusable", "the new model does not start"))
        if not parts.live.verdict(answers=parts.config.probation_answers, seconds=parts.config.probation_s, stop=parts.stop):
            return Event.UNHEALTHY, replace(progress, failure=Failure("model_unusable", "the new model failed on probation"))
        parts.slots.mark_good(slot)
        return Event.HEALTHY, progress

    def go_back(self, progress: Progress) -> tuple[Event, Progress]:
        """Let the previous model answer again, here and after a restart."""
        parts = self._parts
        slot = parts.slots.index.find(_assignment(progress).content_sha256)
        former = parts.slots.give_up(slot) if slot else parts.slots.index.active
        record = parts.slots.index.running
        if former is not None and record is not None and parts.live.sha256 != record.sha256:
            parts.live.put(prove(parts.slots.load(former)))
        elif former is None:
            parts.live.put(None)
        return Event.RETURNED, progress

    def report_end(self, progress: Progress) -> tuple[Event, Progress]:
        """Say how it ended; the report is on disk before the deployment is closed."""
        assignment = _assignment(progress)
        running = self._parts.slots.index.running
        done = running is not None and running.mark is Mark.GOOD and running.sha256 == assignment.content_sha256
        self._report(progress, DeploymentState.SUCCEEDED if done else DeploymentState.FAILED)
        self._parts.staging.keep_only()
        failure = None if done else progress.failure
        return Event.REPORTED, replace(progress, assignment=None, finished=assignment.deployment_id, failure=failure)

    def _report(self, progress: Progress, state: DeploymentState) -> None:
        running = self._parts.slots.index.running
        failure = progress.failure
        report = VehicleReport(
            vehicle_id=self._parts.config.vehicle_id,
            sequence=0,
            deployment_id=_assignment(progress).deployment_id,
            state=state,
            code=failure.code if failure and state is DeploymentState.FAILED else None,
            # A success may have a story too: why the delta was of no use.
            detail=failure.detail if failure else None,
            received=self._parts.tally.received,
            installed=running.installed if running else None,
        )
        self._parts.reports.add(report)
        self._parts.reports.try_flush()

    def _slot(self, progress: Progress) -> SlotName:
        slot = self._parts.slots.index.find(_assignment(progress).content_sha256)
        if slot is None:
            raise ContentMismatch("the rebuilt content is gone")
        return slot


def _assignment(progress: Progress) -> Assignment:
    return _known(progress.assignment)


def _chain(chain: tuple[VerifiedFile, ...]) -> tuple[VerifiedFile, ...]:
    return _known(chain or None)


def _known(value: T | None) -> T:
    """A value that the order of the states guarantees."""
    if value is None:
        raise AssertionError("a state was entered out of order")
    return value
