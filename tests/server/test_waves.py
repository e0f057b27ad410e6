"""Rollouts carried out on a database, with vehicles that report by hand."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from model_registry.contract.messages import Assignment, BytesReceived, DeploymentState, Hop, Installed, VehicleReport
from server.bootstrap import utc_now
from server.database import Database
from server.errors import Conflict, NotFound, WrongState
from server.repositories import fleet, rollouts
from server.services import deltas, deployments, enrolment, waves
from server.services.deltas import MadeDelta
from server.services.rollouts import RolloutEvent
from server.services.waves import RolloutPlan
from server.tables import Delta, Deployment, Job, Rollout, RolloutState, Vehicle, VehicleState, Version, WaveState
from tests.server.fleet import FAMILY, add_vehicle, add_version, digest

E = RolloutEvent
FLEET = [f"car-{n}" for n in range(8)]


class Fleet:
    """A family with versions, vehicles that run the first one, and a rollout of the second."""

    def __init__(self, database: Database, vehicles: Iterable[str] = FLEET, **plan: object) -> None:
        self.database = database
        self.sequence = 0
        with database.writing() as session:
            old = add_version(session, "1.0.0")
            self.new = add_version(session, "2.0.0")
            for vehicle_id in vehicles:
                add_vehicle(session, vehicle_id, runs=old)
        self.rollout_id = self.create("2.0.0", **plan)

    def create(self, version: str, **plan: object) -> int:
        defaults = {"waves": (25, 50, 100), "success_threshold_percent": 100, "error_threshold_percent": 20, "min_executed": 1}
        with self.database.writing() as session:
            return waves.create(session, RolloutPlan(FAMILY, version, **defaults | plan), utc_now()).id  # type: ignore[arg-type]

    def tell(self, event: RolloutEvent, rollout_id: int | None = None, *, bases: int = 0) -> None:
        with self.database.writing() as session:
            waves.tell(session, rollout_id or self.rollout_id, event, delta_bases=bases, now=utc_now())

    def tick(self) -> None:
        with self.database.writing() as session:
            waves.tick(session, self.rollout_id, utc_now())

    def is_in(self, state: RolloutState) -> bool:
        with self.database.reading() as session:
            return session.get_one(Rollout, self.rollout_id).state == state

    @property
    def wave_states(self) -> list[str]:
        with self.database.reading() as session:
            return [wave.state for wave in rollouts.waves(session, self.rollout_id)]

    def offers(self) -> dict[str, Assignment]:
        """What each vehicle would be told now."""
        with self.database.reading() as session:
            found = {v: deployments.assignment(session, session.get_one(Vehicle, v)) for v in FLEET}
        return {vehicle_id: offer for vehicle_id, offer in found.items() if offer}

    def signed(self, vehicle_id: str) -> str | None:
        with self.database.reading() as session:
            target = deployments.signed_target(session, session.get_one(Vehicle, vehicle_id))
        return target.target.version if target else None

    def report(self, vehicle_id: str, state: DeploymentState, code: str | None = None, runs: Version | None = None) -> None:
        self.sequence += 1
        with self.database.writing() as session:
            query = select(Deployment.id).where(Deployment.vehicle_id == vehicle_id).order_by(Deployment.id.desc())
            deployment_id = session.scalars(query.limit(1)).one()
            installed = Installed(runs.version, runs.content_sha256 or "", runs.release_counter) if runs else None
            message = VehicleReport(
                vehicle_id, self.sequence, str(deployment_id), state, code, None, BytesReceived(), installed
            )
            deployments.ingest(session, message, utc_now())

    def succeed(self, vehicle_ids: Iterable[str]) -> None:
        for vehicle_id in vehicle_ids:
            self.report(vehicle_id, DeploymentState.SUCCEEDED, runs=self.new)


def test_waves_open_one_after_the_other_until_all_have_it(database: Database) -> None:
    fleet_ = Fleet(database)
    assert not fleet_.offers()
    fleet_.tell(E.START)
    assert not fleet_.offers(), "a wave opens at the tick"
    sizes = []
    while fleet_.is_in(RolloutState.RUNNING):
        fleet_.tick()
        offers = fleet_.offers()
        sizes.append(len(offers))
        assert all(o.target_path == "models/signs/2.0.0.dfm" and o.hops == () for o in offers.values())
        fleet_.succeed(offers)
    assert sizes == [2, 2, 4, 0]
    assert fleet_.is_in(RolloutState.FINISHED)
    assert fleet_.wave_states == ["done"] * 3


def test_the_director_vouches_for_what_is_offered_and_else_for_what_runs(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START)
    fleet_.tick()
    offered = next(iter(fleet_.offers()))
    assert {v: fleet_.signed(v) for v in FLEET} == {v: "2.0.0" if v in fleet_.offers() else "1.0.0" for v in FLEET}
    fleet_.report(offered, DeploymentState.FAILED, "self_test_failed")
    assert fleet_.signed(offered) is None, "it said that it runs nothing"


def test_too_many_failures_halt_and_resuming_goes_on(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START)
    fleet_.tick()
    first, second = fleet_.offers()
    fleet_.report(first, DeploymentState.FAILED, "self_test_failed")
    fleet_.tick()
    assert fleet_.is_in(RolloutState.PAUSED)
    assert not fleet_.offers(), "who has not begun does not begin"
    with database.reading() as session:
        assert session.get_one(Rollout, fleet_.rollout_id).halted_because == "wave 1: 1 of 1 vehicles failed, above 20 %"
    fleet_.tell(E.RESUME)
    fleet_.tick()
    assert fleet_.is_in(RolloutState.RUNNING)
    assert list(fleet_.offers()) == [second]
    fleet_.succeed([second])
    fleet_.tick()
    assert fleet_.wave_states == ["done", "open", "scheduled"]


def test_a_pause_lets_those_who_have_begun_go_on(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START)
    fleet_.tick()
    begun, waiting = fleet_.offers()
    fleet_.report(begun, DeploymentState.DOWNLOADING)
    fleet_.tell(E.PAUSE)
    assert list(fleet_.offers()) == [begun]
    fleet_.tell(E.RESUME)
    assert set(fleet_.offers()) == {begun, waiting}


def test_an_abort_ends_it_for_everybody_who_has_not_finished(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START)
    fleet_.tick()
    done, begun = fleet_.offers()
    fleet_.succeed([done])
    fleet_.report(begun, DeploymentState.DOWNLOADING)
    fleet_.tell(E.ABORT)
    assert not fleet_.offers()
    assert fleet_.is_in(RolloutState.ABORTED)
    fleet_.report(begun, DeploymentState.SUCCEEDED, runs=fleet_.new)
    with database.reading() as session:
        states = sorted(session.scalars(select(Deployment.state)))
        assert states == ["aborted"] * 7 + ["succeeded"], "what has ended stays as it ended"
        assert session.get_one(Vehicle, begun).installed_version == "2.0.0", "what it runs is true all the same"


def test_two_versions_are_never_on_their_way_at_once(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START)
    other = fleet_.create("1.0.0")
    with pytest.raises(Conflict, match=f"rollout {fleet_.rollout_id} of signs is running"):
        fleet_.tell(E.START, other)
    fleet_.tell(E.ABORT)
    with pytest.raises(Conflict, match="no accepted vehicle"):
        fleet_.tell(E.START, other)


def test_of_two_rollouts_started_at_once_one_is_refused(database: Database) -> None:
    fleet_ = Fleet(database)
    ids = [fleet_.rollout_id, *(fleet_.create("2.0.0") for _ in range(3))]

    def starts(rollout_id: int) -> bool:
        try:
            fleet_.tell(E.START, rollout_id, bases=4)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(starts, ids)) == [False, False, False, True]


def test_vehicles_that_run_it_or_a_later_release_or_are_not_accepted_take_no_part(database: Database) -> None:
    fleet_ = Fleet(database, FLEET[:2])
    with database.writing() as session:
        later = add_version(session, "3.0.0")
        add_vehicle(session, "there-already", runs=fleet_.new)
        add_vehicle(session, "ahead", runs=later)
        add_vehicle(session, "stranger", state=VehicleState.PENDING)
        add_vehicle(session, "from-the-factory")
    fleet_.tell(E.START)
    with database.reading() as session:
        members = set(session.scalars(select(Deployment.vehicle_id)))
    assert members == {*FLEET[:2], "from-the-factory"}


def test_running_a_version_is_not_yet_a_success(database: Database) -> None:
    fleet_ = Fleet(database, FLEET, waves=(100,))
    fleet_.tell(E.START)
    fleet_.tick()
    with database.writing() as session:
        installed = Installed("2.0.0", fleet_.new.content_sha256 or "", fleet_.new.release_counter)
        deployments.note_installed(session, FLEET[0], installed, 1)
    assert set(fleet_.offers()) == set(FLEET), "only its report, after probation, is one"
    fleet_.report(FLEET[0], DeploymentState.SUCCEEDED, runs=fleet_.new)
    assert set(fleet_.offers()) == set(FLEET[1:])


def test_turning_a_vehicle_away_ends_its_part(database: Database) -> None:
    fleet_ = Fleet(database, FLEET, waves=(100,))
    fleet_.tell(E.START)
    fleet_.tick()
    with database.writing() as session:
        enrolment.settle(session, FLEET[0], VehicleState.REJECTED, utc_now())
    fleet_.succeed(FLEET[1:])
    fleet_.tick()
    assert fleet_.is_in(RolloutState.FINISHED)


def test_every_change_of_an_instruction_raises_the_vehicle_s_revision(database: Database) -> None:
    fleet_ = Fleet(database)

    def changed(step: str) -> set[str]:
        with database.reading() as session:
            before = fleet.revision(session)
        match step:
            case "tick":
                fleet_.tick()
            case "report":
                fleet_.report(next(iter(fleet_.offers())), DeploymentState.FAILED)
            case word:
                fleet_.tell(RolloutEvent(word))
        with database.reading() as session:
            return set(fleet.changed_since(session, before))

    assert not changed("start")
    opened = changed("tick")
    assert opened == set(fleet_.offers())
    reporter = next(iter(fleet_.offers()))
    assert changed("report") == {reporter}
    assert changed("tick") == set(FLEET) - {reporter}, "the rollout has halted"
    assert changed("resume") == set(FLEET) - {reporter}
    assert changed("abort") == set(FLEET) - {reporter}


def test_a_wave_waits_for_the_deltas_in_the_making(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START, bases=4)
    fleet_.tick()
    assert fleet_.wave_states[0] == WaveState.SCHEDULED
    with database.writing() as session:
        (job,) = session.scalars(select(Job)).all()
        delta = session.get_one(Delta, job.payload["delta_id"])
        made = MadeDelta("model", digest("delta"), 77, 20_000, 1000, 9000)
        deltas.finish(session, delta, made, published=True)
    fleet_.tick()
    ways = {offer.hops for offer in fleet_.offers().values()}
    old, new = digest("content signs 1.0.0"), digest("content signs 2.0.0")
    assert ways == {(Hop(f"deltas/signs/{old[:16]}-{new[:16]}.dfd", "models/signs/2.0.0.dfm"),)}


def test_a_delta_that_failed_holds_nobody_up(database: Database) -> None:
    fleet_ = Fleet(database)
    fleet_.tell(E.START, bases=4)
    with database.writing() as session:
        deltas.fail(session.scalars(select(Delta)).one())
    fleet_.tick()
    assert {offer.hops for offer in fleet_.offers().values()} == {()}


def test_unknown_versions_and_rollouts_are_not_found(database: Database) -> None:
    fleet_ = Fleet(database)
    with pytest.raises(NotFound, match=r"no version 9\.9\.9"):
        fleet_.create("9.9.9")
    with pytest.raises(NotFound, match="no rollout 77"):
        fleet_.tell(E.START, 77)
    with pytest.raises(WrongState, match="start or abort"):
        fleet_.tell(E.RESUME)
