"""Puts the agent's parts together and keeps them going: answer first, then ask the registry, until it is told to stop."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from client_agent.config import Config
from client_agent.downloader import Staging
from client_agent.identity import Identity
from client_agent.inference.live import Counters, Live
from client_agent.journal import DurableFile, Journal, Progress
from client_agent.machine import Machine, Observer, unobserved
from client_agent.pace import PaceLimits
from client_agent.registry import Registry
from client_agent.reports import ReportQueue
from client_agent.selftest import prove
from client_agent.slots import Mark, SlotName, Slots
from client_agent.steps import Parts, Repositories, Steps
from client_agent.stop import Stopped, StopSignal
from client_agent.tally import Tally
from client_agent.transport import HttpTransport
from model_registry.contract.errors import MessageRefused
from model_registry.contract.fields import Fields

log = logging.getLogger(__name__)
# When this program was made: no clock of a vehicle is believed to be earlier. Moved forward with each release.
RELEASED = datetime(2026, 11, 1, tzinfo=UTC)
POLL_S = 300.0
LONGEST_RETRY_S = 60.0

TRUST, SLOTS, STAGING = "trust", "slots", "staging"
JOURNAL_FILE, REPORTS_FILE, COUNTERS_FILE = "journal.json", "reports.json", "counters.json"


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The vehicle's clock, right or wrong."""
    return datetime.now(UTC)


class Agent:
    """One vehicle's agent over one state directory, which the caller has locked."""

    def __init__(
        self, directory: Path, config: Config, stop: StopSignal, *, observe: Observer = unobserved, clock: Clock = utc_now
    ) -> None:
        self._stop = stop
        self._rng = random.Random()  # noqa: S311 - spreads check-ins, hides nothing
        self._counters = _counters_file(directory / COUNTERS_FILE)
        self.live = Live(self._counters.read())
        self._slots = open_slots(directory)
        (directory / STAGING).mkdir(exist_ok=True)
        journal = Journal(directory / JOURNAL_FILE)
        tally = Tally()
        transport = HttpTransport(config.tls, PaceLimits())
        registry = Registry(config, cache(lambda: Identity.load(directory)), transport)
        parts = Parts(
            config=config,
            journal=journal,
            slots=self._slots,
            staging=Staging(directory / STAGING),
            registry=registry,
            repositories=_repositories(directory / TRUST, config, transport.counting(tally.add_metadata), clock),
            transport=transport,
            reports=ReportQueue(directory / REPORTS_FILE, registry),
            tally=tally,
            live=self.live,
            counters=self._counters,
            stop=stop,
        )
        self._machine = Machine(journal, Steps(parts).table(), tally, observe=observe)

    def wake(self) -> None:
        """Answer from what is installed, before any network; from the other slot if the active one does not start.

        Whatever is wrong with a model or with the disk, this returns: an agent without a model can still be given one.
        """
        index = self._slots.index
        slot = index.active
        crashing = self._crashing()
        if crashing and slot is not None and index.running and index.running.mark is Mark.PROBATION:
            slot = self._leave(slot)
        while slot is not None:
            try:
                self.live.put(prove(self._slots.load(slot)))
            except Exception:
                log.exception("slot %s does not start", slot)
                slot = self._leave(slot)
            else:
                return

    def _crashing(self) -> bool:
        try:
            return self._machine.begin()
        except OSError:
            log.exception("this start cannot be counted")
            return False

    def _leave(self, slot: SlotName) -> SlotName | None:
        fallback = self._slots.index.fallback(slot)
        try:
            self._slots.give_up(slot)
        except OSError:
            log.exception("the disk does not take that slot %s is bad", slot)
        return fallback

    def check(self) -> Progress:
        """Finish what a restart interrupted, then one pass. Raises OSError, Stopped."""
        return self._machine.check()

    def run(self) -> None:
        """Check in for as long as nobody stops it."""
        pause = self._attempt(self._machine.resume, first=True)
        while not self._stop.wait(pause):
            pause = self._attempt(self._machine.check)

    def close(self) -> None:
        """Keep the counters. Raises OSError."""
        self._counters.write(asdict(self.live.counters))

    def _attempt(self, action: Callable[[], Progress], *, first: bool = False) -> float:
        """Act, whatever may go wrong; returns the seconds until the next time."""
        try:
            progress = action()
        except Stopped:
            return 0.0
        except OSError:
            log.exception("the disk refuses; the installed model goes on answering")
            return LONGEST_RETRY_S
        except Exception:
            log.exception("an update pass ended in a mistake of this program; the installed model goes on answering")
            return POLL_S
        return 0.0 if first else pause_s(progress, self._rng)


def pause_s(progress: Progress, rng: random.Random) -> float:
    """Seconds until the next check-in: the registry's interval, or a doubling pause after silences.

    Spread, so that a fleet that was cut off together does not come back together.
    """
    interval = progress.instruction.poll_interval_s if progress.instruction else POLL_S
    if progress.silences:
        interval = min(2.0 ** min(progress.silences, 30), max(interval, LONGEST_RETRY_S))
    return interval * rng.uniform(0.75, 1.25)


def open_slots(directory: Path) -> Slots:
    """The slots of a state directory."""
    (directory / SLOTS).mkdir(exist_ok=True)
    return Slots(directory / SLOTS)


def _repositories(directory: Path, config: Config, transport: HttpTransport, clock: Clock) -> Callable[[], Repositories]:
    def make() -> Repositories:
        # The TUF client is only loaded by a vehicle that has something to fetch.
        from client_agent.repositories import TrustedRepositories  # noqa: PLC0415

        return TrustedRepositories(
            directory,
            transport,
            base_url=config.server,
            vehicle_id=config.vehicle_id,
            hardware_id=config.hardware_id,
            clock=clock,
            build_time=RELEASED,
        )

    return make


def read_counters(path: Path) -> Counters:
    """The counters that an agent kept last."""
    return _counters_file(path).read()


def _counters_file(path: Path) -> DurableFile[Counters]:
    return DurableFile(path, _parse_counters, Counters())


def _parse_counters(value: Any) -> Counters:
    fields = Fields(value, MessageRefused, "counters").only("served", "failed")
    return Counters(fields.integer("served"), fields.integer("failed"))
