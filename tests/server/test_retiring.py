"""Deltas that nobody needs: chosen, unsigned, removed; once, whoever does it and however often it is interrupted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from model_registry.contract.messages import Instruction
from server.api.checkins import CheckIns
from server.bootstrap import Registry, utc_now
from server.database import Database
from server.errors import Conflict
from server.jobs import retiring
from server.repositories import artifacts, fleet
from server.services import deltas, deployments, waves
from server.services.planning import DELTA_ENTRY_BYTES
from server.services.rollouts import RolloutEvent
from server.tables import DeltaState, RetiredBecause, Vehicle
from tests.server.fleet import FAMILY, digest
from tests.server.releases import Releases
from tests.server.test_jobs import Clock, role_file, signed_targets


class TestRetiring:
    def test_what_lies_on_no_way_is_retired_and_told_why(self, releases: Releases) -> None:
        releases.chain()
        releases.delta("3.0.0", "5.0.0", 90_000)
        releases.vehicles("3.0.0")
        assert releases.retire_unneeded() == {("1.0.0", "2.0.0"), ("2.0.0", "3.0.0"), ("3.0.0", "5.0.0")}
        assert releases.states()["1.0.0", "2.0.0"] == (DeltaState.RETIRING, RetiredBecause.UNUSED)
        assert releases.states()["3.0.0", "5.0.0"] == (DeltaState.RETIRING, RetiredBecause.DEARER)
        assert releases.states()["3.0.0", "4.0.0"] == (DeltaState.PUBLISHED, None)
        assert releases.retire_unneeded() == set()

    def test_the_release_before_keeps_its_delta_though_nobody_runs_it(self, releases: Releases) -> None:
        releases.delta("4.0.0", "5.0.0")
        assert releases.retire_unneeded() == set()

    def test_a_rollout_that_is_not_over_keeps_its_ways(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("1.0.0")
        rollout_id = releases.roll_out("3.0.0")
        assert releases.retire_unneeded() == {("3.0.0", "4.0.0")}, "four hops to the newest are too many"
        assert releases.way("on-1.0.0-0") == ["2.0.0", "3.0.0"]
        with releases.database.writing() as session:
            waves.tell(session, rollout_id, RolloutEvent.ABORT, delta_bases=0, now=utc_now())
        assert releases.retire_unneeded() == {("1.0.0", "2.0.0"), ("2.0.0", "3.0.0")}

    def test_a_chain_too_slow_to_be_offered_is_not_kept_either(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("3.0.0")
        releases.roll_out("5.0.0")
        # Two hops of 5,000 bytes take 4 ms.
        assert releases.way("on-3.0.0-0", rebuild_s=0.005) == ["4.0.0", "5.0.0"]
        assert releases.way("on-3.0.0-0", rebuild_s=0.003) == []
        assert ("3.0.0", "4.0.0") in releases.retire_unneeded(rebuild_s=0.003)

    def test_nothing_is_retired_while_a_delta_is_in_the_making(self, releases: Releases) -> None:
        releases.delta("3.0.0", "4.0.0")
        releases.vehicles("3.0.0")
        assert releases.plan("5.0.0", limit=1) == {"4.0.0"}
        assert releases.retire_unneeded() == set(), "it will be the chain's last hop"

    def test_vehicles_that_are_not_accepted_keep_nothing(self, releases: Releases) -> None:
        releases.delta("3.0.0", "5.0.0")
        releases.vehicles("3.0.0")
        with releases.database.writing() as session:
            session.get_one(Vehicle, "on-3.0.0-0").state = "rejected"
        assert releases.retire_unneeded() == {("3.0.0", "5.0.0")}

    def test_a_vehicle_on_a_retired_base_gets_another_way(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("4.0.0")
        releases.retire_unneeded()
        releases.vehicles("3.0.0")
        releases.roll_out("5.0.0")
        assert releases.way("on-3.0.0-0") == [], "3.0.0 to 4.0.0 is retired"
        assert releases.way("on-4.0.0-0") == ["5.0.0"]

    def test_a_chain_broken_between_two_check_ins_is_offered_no_more(self, releases: Releases) -> None:
        releases.chain()
        releases.vehicles("3.0.0")
        releases.roll_out("5.0.0")
        memory = CheckIns(releases.database, poll_interval_s=1)
        memory.poll()
        offered = Instruction.from_bytes(memory.load("on-3.0.0-0").body).assignment
        assert offered is not None
        assert len(offered.hops) == 2
        with releases.database.writing() as session:
            row = artifacts.delta_between(session, FAMILY, "3.0.0", "4.0.0")
            assert row is not None
            deltas.retire(session, FAMILY, row, utc_now())
        memory.poll()
        assert memory.get("on-3.0.0-0") is None, "every process looks again"
        offered = Instruction.from_bytes(memory.load("on-3.0.0-0").body).assignment
        assert offered is not None
        assert offered.hops == ()

    def test_retiring_twice_is_retiring_once_and_only_what_is_published_retires(self, releases: Releases) -> None:
        releases.delta("4.0.0", "5.0.0")
        for _ in range(2):
            with releases.database.writing() as session:
                row = artifacts.delta_between(session, FAMILY, "4.0.0", "5.0.0")
                assert row is not None
                before = row.retired_at
                deltas.retire(session, FAMILY, row, utc_now())
                assert before is None or row.retired_at == before
        releases.plan("3.0.0")
        with releases.database.writing() as session:
            queued = artifacts.delta_between(session, FAMILY, "2.0.0", "3.0.0")
            assert queued is not None
            with pytest.raises(Conflict, match="queued, not published"):
                deltas.retire(session, FAMILY, queued, utc_now())


class TestGoing:
    """From signed metadata and from the store."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def signed(self, registry: Registry, clock: Clock) -> Registry:
        """Forty deltas to five releases, signed and stored as a delta job leaves them; nobody needs but one of them."""
        from model_registry.contract.targets import DeltaTarget

        numbers = [f"1.{n}.0" for n in range(9)]
        releases = Releases(registry.database, numbers)
        for counter, version in enumerate(releases.versions.values(), start=1):
            with registry.database.reading() as session:
                from server.tables import Family

                target = deployments.full_target(version, session.get_one(Family, FAMILY), version.content_sha256 or "", 5000)
            assert target.release_counter == counter
            registry.image_repository.add_full(target, sha256=version.full_sha256 or "", length=400_000)
        pairs = [(a, b) for i, b in enumerate(numbers) for a in numbers[:i]]
        entries = []
        for base, number in pairs:
            text = f"delta {base} {number}"
            releases.delta(base, number)
            registry.store.put(f"artifacts/{digest(text)}", text.encode(), sha256=digest(text), size_bytes=len(text))
            one, two = releases.versions[base], releases.versions[number]
            name = DeltaTarget(FAMILY, one.content_sha256 or "", two.content_sha256 or "")
            entries.append((name, digest(text), len(text)))
        registry.image_repository.add_deltas(entries)
        return replace(registry, clock=clock)

    def role_bytes(self, registry: Registry) -> int:
        """What a vehicle fetches to learn of this family's deltas."""
        return len(role_file(registry, "deltas-signs"))

    def names(self, registry: Registry) -> set[str]:
        return set(signed_targets(registry, "deltas-signs"))

    def files(self, registry: Registry) -> int:
        return len(list((registry.settings.files_directory / "artifacts").iterdir()))

    def test_metadata_shrinks_at_once_and_files_go_after_a_while(self, signed: Registry, clock: Clock) -> None:
        before = self.role_bytes(signed)
        assert (len(self.names(signed)), self.files(signed)) == (36, 36)
        retiring.retire_unneeded(signed)
        assert len(self.names(signed)) == 36, "until a worker withdraws them"
        retiring.withdraw(signed)
        assert len(self.names(signed)) == 1
        after = self.role_bytes(signed)
        assert after < 900
        assert abs((before - after) / 35 - DELTA_ENTRY_BYTES) < 20, (before, after)
        retiring.remove_files(signed)
        assert self.files(signed) == 36, "somebody may be in the middle of a download"
        clock.pass_s(signed.settings.retired_file_life_s + 1)
        retiring.remove_files(signed)
        assert self.files(signed) == 1
        editions = len(list((signed.settings.files_directory / "metadata/image").iterdir()))
        for step in (retiring.retire_unneeded, retiring.withdraw, retiring.remove_files):
            step(signed)
        assert len(list((signed.settings.files_directory / "metadata/image").iterdir())) == editions, "nothing new to say"

    def test_two_workers_do_it_at_once(self, signed: Registry, clock: Clock) -> None:
        def round_(_: int) -> None:
            for step in (retiring.retire_unneeded, retiring.withdraw, retiring.remove_files):
                step(signed)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(round_, range(8)))
        clock.pass_s(signed.settings.retired_file_life_s + 1)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(round_, range(8)))
        assert (len(self.names(signed)), self.files(signed)) == (1, 1)

    def test_one_that_is_asked_for_again_keeps_its_name_and_file(self, signed: Registry, clock: Clock) -> None:
        retiring.retire_unneeded(signed)
        retiring.withdraw(signed)
        with signed.database.writing() as session:
            row = artifacts.delta_between(session, FAMILY, "1.0.0", "1.8.0")
            assert row is not None
            row.state, row.retired_because, row.retired_at = DeltaState.QUEUED, None, None
        clock.pass_s(signed.settings.retired_file_life_s + 1)
        retiring.remove_files(signed)
        assert self.files(signed) == 2

    def test_a_worker_that_died_before_the_row_was_written_is_no_harm(self, signed: Registry) -> None:
        """Signed metadata has forgotten the delta already; its row says that it is still to be forgotten."""
        with signed.database.writing() as session:
            row = artifacts.delta_between(session, FAMILY, "1.0.0", "1.8.0")
            assert row is not None
            deltas.retire(session, FAMILY, row, utc_now())
            base, version = (artifacts.version_by_id(session, number) for number in (row.base_id, row.version_id))
        signed.image_repository.retire([deltas.delta_name(FAMILY, base, version)])
        retiring.withdraw(signed)
        with signed.database.reading() as session:
            after = artifacts.delta_between(session, FAMILY, "1.0.0", "1.8.0")
        assert after is not None
        assert after.state == DeltaState.RETIRED


def test_revisions_tell_busy_vehicles_apart(database: Database) -> None:
    releases = Releases(database)
    releases.chain()
    releases.vehicles("3.0.0")
    releases.roll_out("5.0.0")
    releases.vehicles("4.0.0")
    with database.reading() as session:
        before = fleet.revision(session)
    with database.writing() as session:
        row = artifacts.delta_between(session, FAMILY, "1.0.0", "2.0.0")
        assert row is not None
        deltas.retire(session, FAMILY, row, utc_now())
    with database.reading() as session:
        assert list(fleet.changed_since(session, before)) == ["on-3.0.0-0"]


def test_files_are_looked_for_no_earlier_than_their_time(registry: Registry) -> None:
    with registry.database.reading() as session:
        assert list(artifacts.retired_with_file(session, utc_now() - timedelta(days=1), limit=1)) == []
