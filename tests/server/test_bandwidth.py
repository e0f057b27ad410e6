"""Bytes are counted once, whatever happens to the reports on their way."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from model_registry.contract.messages import BytesReceived, DeploymentState, VehicleReport
from server.bootstrap import utc_now
from server.database import Database
from server.errors import NotFound
from server.repositories import rollouts
from server.services import bandwidth, deployments, waves
from server.services.deployments import growth
from server.services.rollouts import RolloutEvent
from server.services.waves import RolloutPlan
from server.tables import Counterfactual, Deployment
from tests.server.fleet import FAMILY, add_vehicle, add_version

START = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def rollout_id(database: Database) -> int:
    """One wave of two vehicles: one that runs 1.0.0, one from the factory."""
    with database.writing() as session:
        old = add_version(session, "1.0.0")
        new = add_version(session, "2.0.0")
        add_vehicle(session, "car-1", runs=old)
        add_vehicle(session, "car-2")
        session.add(
            Counterfactual(
                version_id=new.id,
                base_sha256=old.content_sha256,
                float32_full_bytes=20_000,
                compressed_full_bytes=1000,
                bsdiff4_float16_bytes=3000,
            )
        )
        rollout = waves.create(session, RolloutPlan(FAMILY, "2.0.0", (100,), 100, 100, 1), utc_now())
        waves.tell(session, rollout.id, RolloutEvent.START, delta_bases=0, now=utc_now())
        waves.tick(session, rollout.id, utc_now())
        return rollout.id


def report(sequence: int, received: BytesReceived, *, state: str = "downloading", vehicle: int = 1) -> VehicleReport:
    return VehicleReport(
        f"car-{vehicle}", sequence, str(deployment_of[vehicle]), DeploymentState(state), None, None, received, None
    )


deployment_of: dict[int, int] = {}


@pytest.fixture(autouse=True)
def _deployments(database: Database, rollout_id: int) -> None:
    with database.reading() as session:
        for row in session.query(Deployment):
            deployment_of[int(row.vehicle_id[-1])] = row.id


def take(database: Database, message: VehicleReport, at: datetime = START) -> None:
    with database.writing() as session:
        deployments.ingest(session, message, at)


def bill(database: Database, rollout_id: int) -> bandwidth.Bandwidth:
    with database.reading() as session:
        return bandwidth.of_rollout(session, rollout_id)


def test_increments_go_to_the_minute_in_which_they_are_told(database: Database, rollout_id: int) -> None:
    take(database, report(1, BytesReceived(10, 0, 0)))
    take(database, report(2, BytesReceived(10, 500, 0)), START + timedelta(seconds=20))
    take(database, report(3, BytesReceived(12, 800, 7)), START + timedelta(minutes=3))
    take(database, report(1, BytesReceived(1, 0, 0), vehicle=2), START + timedelta(minutes=3))
    found = bill(database, rollout_id)
    noon = START.replace(second=0)
    assert [(m.minute, m.received) for m in found.minutes] == [
        (noon, BytesReceived(10, 500, 0)),
        (noon + timedelta(minutes=3), BytesReceived(3, 300, 7)),
    ]
    assert found.received == BytesReceived(13, 800, 7)
    assert found.vehicles == 2


@pytest.mark.parametrize("seed", range(5))
def test_repeated_lost_and_reordered_reports_count_once(database: Database, rollout_id: int, seed: int) -> None:
    chance = random.Random(seed)
    sent, received = [], BytesReceived()
    for sequence in range(1, 13):
        received = BytesReceived(
            received.metadata + chance.randrange(9),
            received.delta + chance.randrange(99),
            received.full + chance.randrange(999),
        )
        sent.append(report(sequence, received))
    arriving = [m for m in sent[:-1] if chance.random() < 0.7] * 2 + [sent[-1]]
    chance.shuffle(arriving)
    for message in arriving:
        take(database, message)
    found = bill(database, rollout_id)
    assert found.received == received
    assert sum(m.received.total for m in found.minutes) == received.total


def test_counters_that_fall_add_nothing(database: Database, rollout_id: int) -> None:
    take(database, report(1, BytesReceived(10, 100, 0)))
    take(database, report(2, BytesReceived(5, 40, 0)))
    take(database, report(3, BytesReceived(11, 100, 0)))
    assert bill(database, rollout_id).received == BytesReceived(11, 100, 0)
    assert growth(BytesReceived(5, 5, 5), BytesReceived(1, 9, 5)) == BytesReceived(0, 4, 0)


def test_bytes_after_the_end_still_count_and_the_end_stays(database: Database, rollout_id: int) -> None:
    take(database, report(5, BytesReceived(0, 100, 0), state="succeeded"))
    take(database, report(6, BytesReceived(0, 150, 0), state="failed"))
    found = bill(database, rollout_id)
    assert found.received.delta == 150
    assert not found.failures


def test_other_ways_are_counted_for_vehicles_that_got_there(database: Database, rollout_id: int) -> None:
    assert bill(database, rollout_id).counterfactuals == bandwidth.Alternatives(0, 0, 0)
    take(database, report(1, BytesReceived(0, 80, 0), state="succeeded"))
    assert bill(database, rollout_id).counterfactuals == bandwidth.Alternatives(20_000, 1000, 3000)
    take(database, report(1, BytesReceived(0, 0, 1000), state="succeeded", vehicle=2))
    assert bill(database, rollout_id).counterfactuals == bandwidth.Alternatives(40_000, 2000, 13_000)


def test_vehicles_that_failed_or_moved_nothing_make_other_ways_no_dearer(database: Database, rollout_id: int) -> None:
    take(database, report(1, BytesReceived(0, 80, 0), state="failed"))
    take(database, report(1, BytesReceived(9, 0, 0), state="succeeded", vehicle=2))
    found = bill(database, rollout_id)
    assert found.counterfactuals == bandwidth.Alternatives(0, 0, 0)
    assert found.failures == {"unknown": 1}


def test_no_rollout_has_no_bill(database: Database) -> None:
    with pytest.raises(NotFound), database.reading() as session:
        bandwidth.of_rollout(session, 77)
    with database.reading() as session:
        assert not rollouts.minutes(session, 77)
