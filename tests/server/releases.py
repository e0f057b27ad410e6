"""A family of releases with deltas of a test's choice between them, without jobs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

from server.bootstrap import utc_now
from server.database import Database
from server.repositories import artifacts
from server.services import deltas, deployments, waves
from server.services.deltas import MadeDelta
from server.services.planning import DEFAULT_BOUNDS
from server.services.rollouts import RolloutEvent
from server.services.waves import RolloutPlan
from server.tables import Delta, DeltaState, Vehicle, Version
from tests.server.fleet import FAMILY, add_vehicle, add_version, digest

BSDIFF4_BYTES = 3_000
NUMBERS = [f"{n}.0.0" for n in range(1, 6)]


class Releases:
    """A family of releases, 400 kB each, with deltas of our choice between them."""

    def __init__(self, database: Database, numbers: list[str] = NUMBERS) -> None:
        self.database = database
        with database.writing() as session:
            self.versions = {number: add_version(session, number, full_bytes=400_000) for number in numbers}

    def delta(self, base: str, version: str, size_bytes: int = 20_000) -> None:
        with self.database.writing() as session:
            ends = (self.versions[base].id, self.versions[version].id)
            row = Delta(base_id=ends[0], version_id=ends[1], state=DeltaState.QUEUED, created_at=utc_now())
            session.add(row)
            session.flush()
            made = MadeDelta("model", digest(f"delta {base} {version}"), size_bytes, 1, 1, BSDIFF4_BYTES)
            deltas.finish(session, row, made, published=True)

    def chain(self) -> None:
        """A delta from each release to the next."""
        numbers = list(self.versions)
        for base, version in pairwise(numbers):
            self.delta(base, version)

    def vehicles(self, number: str | None, count: int = 1) -> None:
        with self.database.writing() as session:
            runs = self.versions[number] if number else None
            for n in range(count):
                add_vehicle(session, f"on-{number or 'nothing'}-{n}", runs=runs)

    def roll_out(self, number: str) -> int:
        with self.database.writing() as session:
            plan = RolloutPlan(FAMILY, number, (100,), 100, 20, 1)
            rollout = waves.create(session, plan, utc_now())
            waves.tell(session, rollout.id, RolloutEvent.START, delta_bases=0, now=utc_now())
            waves.tick(session, rollout.id, utc_now())
            return rollout.id

    def way(self, vehicle_id: str, **bounds: Any) -> list[str]:
        """The versions that a vehicle is led over; none: the full artifact."""
        with self.database.reading() as session:
            vehicle = session.get_one(Vehicle, vehicle_id)
            offer = deployments.assignment(session, vehicle, replace(DEFAULT_BOUNDS, **bounds))
        assert offer is not None
        return [hop.target_path.removeprefix(f"models/{FAMILY}/").removesuffix(".dfm") for hop in offer.hops]

    def states(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        with self.database.reading() as session:
            rows = artifacts.deltas_of(session, FAMILY)
        return {(b.version, v.version): (delta.state, delta.retired_because) for delta, b, v in rows}

    def retire_unneeded(self, **bounds: Any) -> set[tuple[str, str]]:
        before = self.states()
        with self.database.writing() as session:
            deltas.retire_unneeded(session, FAMILY, bounds=replace(DEFAULT_BOUNDS, **bounds), now=utc_now())
        return {ends for ends, state in self.states().items() if state != before[ends]}

    def plan(self, number: str, limit: int = 8) -> set[str]:
        """Bases from which deltas are then in the making."""
        with self.database.writing() as session:
            deltas.plan(
                session, session.get_one(Version, self.versions[number].id), limit=limit, bounds=DEFAULT_BOUNDS, now=utc_now()
            )
        return {base for (base, version), (state, _) in self.states().items() if version == number and state == "queued"}
