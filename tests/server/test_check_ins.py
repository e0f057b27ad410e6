"""What an API process remembers of vehicles: no reading when nothing changed, and no staying behind when something did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from sqlalchemy import event

from server.api.checkins import CheckIns, PresenceBuffer, save_presences
from server.bootstrap import Registry, utc_now
from server.database import Database
from server.repositories import fleet
from server.repositories.fleet import Seen
from server.tables import Presence, Vehicle
from tests.daemons import wait_until
from tests.server.fleet import add_vehicle, add_version, enrolled
from tests.server.test_device_api import start_rollout


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Every statement that reaches the database meanwhile."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_check_in_with_nothing_new_asks_the_database_nothing(anonymous: httpx2.Client, registry: Registry) -> None:
    car = enrolled(anonymous, registry)
    etag = car.check_in().headers["etag"]

    def twenty_without_a_question() -> bool:
        with statements(registry.database) as seen:
            assert [car.check_in(etag).status_code for _ in range(20)] == [304] * 20
        return not [s for s in seen if "vehicles" in s]

    # The enrolment's own change is noticed once, a moment later; then there is silence.
    wait_until(twenty_without_a_question, deadline_s=10, what="silence")


def remember(database: Database, *vehicle_ids: str) -> CheckIns:
    memory = CheckIns(database, poll_interval_s=1)
    memory.poll()
    for vehicle_id in vehicle_ids:
        memory.load(vehicle_id)
    return memory


def test_another_process_s_change_is_noticed_and_nothing_else_is_forgotten(database: Database) -> None:
    with database.writing() as session:
        add_vehicle(session, "car-1")
        add_vehicle(session, "car-2")
    memory = remember(database, "car-1", "car-2", "nobody")
    with database.writing() as session:
        fleet.touch(session, Vehicle.id == "car-1")
        add_vehicle(session, "nobody")
    memory.poll()
    assert memory.get("car-1") is None
    assert memory.get("nobody") is None, "that there was no such vehicle is forgotten when there is one"
    assert memory.get("car-2") is not None


def test_what_was_read_before_a_change_is_not_remembered_after_it(registry: Registry) -> None:
    with registry.database.writing() as session:
        add_vehicle(session, "car-1")

    class Racing(CheckIns):
        """A change comes in between the reading and the remembering."""

        def _read(self, vehicle_id: str) -> object:  # type: ignore[override]
            entry = super()._read(vehicle_id)
            start_rollout(registry)
            self.poll()
            return entry

    memory = Racing(registry.database, poll_interval_s=1)
    memory.poll()
    stale = memory.load("car-1")
    assert b"2.0.0" not in stale.body
    assert memory.get("car-1") is None


def test_memory_is_bounded(database: Database) -> None:
    memory = CheckIns(database, poll_interval_s=1, remembered=3)
    for n in range(10):
        memory.load(f"nobody-{n}")
    assert [memory.get(f"nobody-{n}") is not None for n in range(10)] == [False] * 7 + [True] * 3


def seen(vehicle_id: str, sequence: int, served: int = 0) -> Seen:
    return Seen(vehicle_id, utc_now(), sequence, served, 0)


def presences(database: Database) -> dict[str, tuple[int, int]]:
    with database.reading() as session:
        return {row.vehicle_id: (row.sequence, row.inferences_served) for row in session.query(Presence)}


def test_batches_keep_the_latest_of_each_vehicle(database: Database) -> None:
    with database.writing() as session:
        for name in ("b", "a"):
            add_vehicle(session, name)
    buffer = PresenceBuffer(save_presences(database), capacity=10)
    for row in (seen("a", 1, 10), seen("b", 5, 50), seen("a", 3, 30), seen("a", 2, 20)):
        buffer.note(row)
    buffer.flush()
    assert presences(database) == {"a": (3, 30), "b": (5, 50)}
    buffer.note(seen("a", 2, 999))
    buffer.note(seen("b", 6, 60))
    buffer.flush()
    assert presences(database) == {"a": (3, 30), "b": (6, 60)}, "another process's older batch comes too late"


def test_what_cannot_be_written_is_kept_and_what_does_not_fit_is_counted() -> None:
    written: list[list[Seen]] = []
    broken = [True]

    def save(rows: list[Seen]) -> None:
        if broken[0]:
            raise OSError("the database is away")
        written.append(rows)

    buffer = PresenceBuffer(save, capacity=2)
    for row in (seen("a", 1), seen("b", 1), seen("c", 1), seen("a", 2)):
        buffer.note(row)
    with pytest.raises(OSError, match="away"):
        buffer.flush()
    buffer.note(seen("a", 1))
    broken[0] = False
    buffer.flush()
    assert [(row.vehicle_id, row.sequence) for row in written[0]] == [("a", 2), ("b", 1)]
    assert buffer.dropped == 1


def test_a_flush_waits_for_the_batch_that_another_flush_is_writing() -> None:
    taken, passed = threading.Event(), threading.Event()
    order: list[str] = []

    def save(_rows: list[Seen]) -> None:
        taken.set()
        passed.wait(0.2)  # long enough for a flush that does not wait; one that does cannot set this
        order.append("written")

    buffer = PresenceBuffer(save, capacity=2)
    buffer.note(seen("a", 1))
    timer = threading.Thread(target=buffer.flush)
    timer.start()
    assert taken.wait(10)
    buffer.flush()
    order.append("returned")
    passed.set()
    timer.join(10)
    assert order == ["written", "returned"]


def test_the_last_check_ins_are_written_when_the_process_ends(anonymous: httpx2.Client, registry: Registry) -> None:
    with registry.database.writing() as session:
        add_version(session, "1.0.0")
    car = enrolled(anonymous, registry)
    car.check_in(inferences_served=7)
    anonymous.app.state.device.presences.flush()  # type: ignore[attr-defined]
    assert presences(registry.database)["car-1"][1] == 7
