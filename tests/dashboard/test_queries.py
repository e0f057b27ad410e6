"""The dashboard's figures, on both databases, from rows that a registry would have written."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event

from model_registry.contract.messages import BytesReceived
from server.dashboard import queries
from server.dashboard.figures import Alternatives, FailureLine, Minute
from server.database import Database
from server.repositories import rollouts as accounts
from server.tables import RolloutState, VehicleState, VersionState, WaveState
from tests.dashboard.seed import NOW, S, Seeder, busy_fleet

pytestmark = pytest.mark.services
RECENT_S = 90.0


def test_an_empty_registry_has_an_empty_overview(database: Database) -> None:
    with database.reading() as session:
        page = queries.overview(session, now=NOW, recent_s=RECENT_S)
    assert (page.families, page.rollouts, page.failures) == ((), (), ())
    assert page.fleet.vehicles == 0
    assert page.sent.total == 0
    assert page.alternatives == Alternatives()


def test_vehicles_are_counted_by_what_they_run_and_whether_they_are_there(database: Database) -> None:
    with database.writing() as session:
        seed = Seeder(session)
        seed.family("signs")
        seed.family("empty")
        old, new = seed.version("signs", "1.9.0", 1), seed.version("signs", "1.10.0", 2)
        foreign = seed.version("signs", "0.1.0", 9)
        seed.delta(old, new, 30_000)
        seed.vehicle("a", "signs", new, served=100, failed=1)
        seed.vehicle("b", "signs", old, served=50, seen_s_ago=91)
        seed.vehicle("c", "signs", None)
        seed.vehicle("d", "signs", foreign).installed_sha256 = "f" * 64
        seed.vehicle("e", "signs", None, state=VehicleState.PENDING)
        seed.vehicle("f", "signs", None, state=VehicleState.REJECTED)
        seed.unpublished("signs", "1.11.0", 3, state=VersionState.FAILED, error="truncated")
    with database.reading() as session:
        page = queries.overview(session, now=NOW, recent_s=RECENT_S)
    fleet = page.fleet
    assert (fleet.vehicles, fleet.waiting, fleet.recent) == (4, 1, 3)
    assert (fleet.inferences_served, fleet.inferences_failed) == (150, 1)
    empty, signs = page.families
    assert (empty.name, empty.versions, empty.vehicles) == ("empty", (), 0)
    # In the order of release, which is not that of the alphabet.
    assert [line.version for line in signs.versions] == ["0.1.0", "1.11.0", "1.10.0", "1.9.0"]
    assert [line.vehicles for line in signs.versions] == [0, 0, 1, 1]
    assert (signs.without_model, signs.unknown, signs.vehicles) == (1, 1, 4)
    assert (signs.versions[1].state, signs.versions[1].error) == ("failed", "truncated")
    assert (signs.versions[2].smallest_delta_bytes, signs.versions[2].smallest_delta_base) == (30_000, "1.9.0")


def test_of_many_versions_the_newest_are_listed_and_all_that_run(database: Database) -> None:
    with database.writing() as session:
        seed = Seeder(session)
        seed.family("signs")
        versions = [seed.version("signs", f"1.{n}.0", n + 1) for n in range(20)]
        seed.vehicle("a", "signs", versions[0])
    with database.reading() as session:
        (family,) = queries.overview(session, now=NOW, recent_s=RECENT_S).families
    listed = [line.version for line in family.versions]
    assert listed == [f"1.{n}.0" for n in range(19, 19 - queries.VERSIONS_SHOWN, -1)] + ["1.0.0"]


def test_alternatives_count_what_was_delivered_and_agree_with_the_api(database: Database) -> None:
    with database.writing() as session:
        seed = Seeder(session)
        seed.family("signs")
        old = seed.version("signs", "1.0.0", 1)
        new = seed.version("signs", "2.0.0", 2, full_bytes=400_000, float32_bytes=2_900_000)
        seed.delta(old, new, 24_000, bsdiff4_bytes=1_100_000)
        rollout = seed.rollout(new)
        attempts = (
            ("with-delta", S.SUCCEEDED, old, (9_000, 24_000, 0), None),
            ("from-nothing", S.SUCCEEDED, None, (9_000, 0, 400_000), None),
            ("had-it-already", S.SUCCEEDED, new, (9_000, 0, 0), None),
            ("failed", S.FAILED, old, (9_000, 24_000, 0), "self_test_failed"),
            ("failed-silently", S.FAILED, old, (9_000, 0, 0), None),
            ("under-way", S.DOWNLOADING, old, (9_000, 12_000, 0), None),
        )
        for name, state, base, received, code in attempts:
            seed.vehicle(name, "signs", base)
            seed.deployment(rollout, name, state, base=base, received=received, code=code)
        rollout_id = rollout.id
    with database.reading() as session:
        page = queries.rollout_page(session, rollout_id)
        overview = queries.overview(session, now=NOW, recent_s=RECENT_S)
        by_api = accounts.counterfactual_sums(session, rollout_id)
    assert page is not None
    assert page.rollout.sent == BytesReceived(54_000, 60_000, 400_000)
    expected = Alternatives(float32_full=5_800_000, compressed_full=800_000, bsdiff4_float16=1_100_000 + 1_450_000)
    assert page.rollout.alternatives == expected
    assert (expected.float32_full, expected.compressed_full, expected.bsdiff4_float16) == by_api
    assert page.failures == (FailureLine("self_test_failed", 1), FailureLine("unknown", 1))
    assert overview.alternatives == expected
    assert overview.sent == page.rollout.sent
    assert overview.failures == page.failures


def test_a_rollout_shows_waves_minutes_and_thresholds(database: Database) -> None:
    with database.writing() as session:
        rollout_id = busy_fleet(session).id
    with database.reading() as session:
        page = queries.rollout_page(session, rollout_id)
    assert page is not None
    assert [(w.number, w.percent, w.state, w.vehicles) for w in page.waves] == [
        (1, 25, WaveState.DONE, 8),
        (2, 80, WaveState.OPEN, 18),
        (3, 100, WaveState.SCHEDULED, 6),
    ]
    assert page.waves[1].progress[S.FAILED] == 2
    assert page.rollout.vehicles == 32
    assert (page.success_threshold_percent, page.error_threshold_percent) == (100, 20)
    assert page.minutes[0].start == NOW - timedelta(minutes=38)
    assert isinstance(page.minutes[0], Minute)
    assert page.inferences_served > 0


def test_no_such_rollout_is_no_page(database: Database) -> None:
    with database.reading() as session:
        assert queries.rollout_page(session, 12) is None


def test_vehicles_come_in_pages_and_can_be_filtered(database: Database) -> None:
    with database.writing() as session:
        seed = Seeder(session)
        seed.family("signs")
        rollout = seed.rollout(seed.version("signs", "1.0.0", 1))
        for number in range(120):
            name = f"v{number:03d}"
            seed.vehicle(name, "signs", None)
            seed.deployment(rollout, name, S.FAILED if number % 2 else S.PENDING, code="unreachable" if number % 2 else None)
        rollout_id = rollout.id
    seen: list[str] = []
    after = None
    with database.reading() as session:
        for _ in range(3):
            page = queries.rollout_page(session, rollout_id, after=after)
            assert page is not None
            seen += [line.vehicle_id for line in page.vehicles.lines]
            after = page.vehicles.next_after
        failed = queries.rollout_page(session, rollout_id, state=S.FAILED, after="v097")
    assert seen == [f"v{number:03d}" for number in range(120)]
    assert after is None
    assert failed is not None
    assert [line.vehicle_id for line in failed.vehicles.lines] == [f"v{number:03d}" for number in range(99, 120, 2)]
    assert {line.code for line in failed.vehicles.lines} == {"unreachable"}


def test_only_the_newest_rollouts_are_listed(database: Database) -> None:
    with database.writing() as session:
        seed = Seeder(session)
        seed.family("signs")
        version = seed.version("signs", "1.0.0", 1)
        ids = [seed.rollout(version, state=RolloutState.FINISHED).id for _ in range(queries.ROLLOUTS_SHOWN + 3)]
    with database.reading() as session:
        page = queries.overview(session, now=NOW, recent_s=RECENT_S)
    assert [line.id for line in page.rollouts] == ids[: -queries.ROLLOUTS_SHOWN - 1 : -1]
    assert page.older_rollouts == 3


def test_a_page_asks_as_many_questions_of_a_large_fleet_as_of_a_small_one(database: Database) -> None:
    asked: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: asked.append(args[2]))

    def ask(rollout_id: int) -> int:
        asked.clear()
        with database.reading() as session:
            queries.rollout_page(session, rollout_id)
            queries.overview(session, now=NOW, recent_s=RECENT_S)
        return len(asked)

    with database.writing() as session:
        seed = Seeder(session)
        seed.family("one")
        small = seed.rollout(seed.version("one", "1.0.0", 1)).id
    few = ask(small)
    with database.writing() as session:
        large = busy_fleet(session).id
    assert ask(large) == few
