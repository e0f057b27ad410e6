"""Tables, migrations and locks, on both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from pytest_alembic import create_alembic_fixture
from pytest_alembic.tests import (
    test_model_definitions_match_ddl as _match_ddl,
)
from pytest_alembic.tests import (
    test_single_head_revision as _single_head,
)
from pytest_alembic.tests import (
    test_up_down_consistency as _up_down,
)
from pytest_alembic.tests import (
    test_upgrade as _upgrade,
)
from sqlalchemy import Engine, create_engine, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import StaticPool

from server.database import Database, alembic_config, migrate, require_current_schema
from server.errors import DatabaseOutdated
from server.repositories import fleet, rollouts
from server.tables import (
    Counterfactual,
    Delta,
    Deployment,
    DirectorMetadata,
    EnrolmentToken,
    FleetRevision,
    Job,
    Presence,
    Rollout,
    RolloutMinute,
    Table,
    Upload,
    Vehicle,
    Version,
    Wave,
)
from tests.server.fleet import add_vehicle, add_version, digest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def alembic_engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "sqlite":
        return create_engine("sqlite://", poolclass=StaticPool)
    return create_engine(request.getfixturevalue("postgres_url"))


alembic_runner = create_alembic_fixture(
    {"script_location": str(Path(__file__).parents[2] / "migrations"), "target_metadata": Table.metadata}
)


def test_there_is_one_head(alembic_runner: Any) -> None:
    _single_head(alembic_runner)


def test_migrations_run_up(alembic_runner: Any) -> None:
    _upgrade(alembic_runner)


def test_migrations_run_down_and_up_again(alembic_runner: Any) -> None:
    _up_down(alembic_runner)


def test_migrations_make_what_the_tables_say(alembic_runner: Any) -> None:
    _match_ddl(alembic_runner)


def test_published_versions_are_listed_after_the_migration(database: Database) -> None:
    with database.writing() as session:
        add_version(session, "1.0.0")
        add_version(session, "2.0.0")
        session.execute(text("UPDATE versions SET state = 'processing', published_at = NULL WHERE version = '2.0.0'"))
    for step, revision in ((command.downgrade, "0002"), (command.upgrade, "head")):
        step(alembic_config(database.engine), revision)
    with database.reading() as session:
        found = session.execute(text("SELECT version, listing FROM versions ORDER BY version")).all()
    assert [tuple(row) for row in found] == [("1.0.0", "listed"), ("2.0.0", None)]


def test_migrations_run_on_a_connection_too(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", lock_file=tmp_path / "lock")
    with database.engine.connect() as connection:
        config = alembic_config(database.engine)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    require_current_schema(database)
    database.close()


def test_a_database_without_tables_is_refused_with_the_remedy(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}", lock_file=tmp_path / "lock")
    with pytest.raises(DatabaseOutdated, match="deltafleet migrate"):
        require_current_schema(database)
    database.close()


def test_migrating_again_or_at_once_changes_nothing(database: Database) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: migrate(database), range(3)))
    require_current_schema(database)
    assert "vehicles" in inspect(database.engine).get_table_names()


def job(**changes: Any) -> Job:
    values = {"kind": "delta", "key": "k", "payload": {}, "state": "queued", "created_at": NOW}
    return Job(**values | changes)


def version(**changes: Any) -> Version:
    values = {
        "family": "signs",
        "version": "9.0.0",
        "state": "processing",
        "release_counter": 9,
        "upload_id": "u",
        "upload_sha256": digest("u"),
        "recipe": {},
        "created_at": NOW,
    }
    return Version(**values | changes)


def vehicle(**changes: Any) -> Vehicle:
    values = {
        "id": "car-9",
        "family": "signs",
        "hardware_id": "h",
        "state": "pending",
        "public_key": {},
        "keyid": digest("k"),
        "enrolled_at": NOW,
    }
    return Vehicle(**values | changes)


def rollout(**changes: Any) -> Rollout:
    values = {
        "family": "signs",
        "version_id": 1,
        "state": "draft",
        "success_threshold_percent": 100,
        "error_threshold_percent": 20,
        "min_executed": 1,
        "created_at": NOW,
    }
    return Rollout(**values | changes)


def deployment(**changes: Any) -> Deployment:
    values = {"rollout_id": 1, "vehicle_id": "car-1", "wave": 0, "state": "pending", "created_at": NOW, "updated_at": NOW}
    return Deployment(**values | changes)


def delta(**changes: Any) -> Delta:
    return Delta(**{"base_id": 1, "version_id": 2, "state": "queued", "created_at": NOW} | changes)


def wave(**changes: Any) -> Wave:
    return Wave(**{"rollout_id": 1, "ordinal": 5, "percent": 50, "state": "scheduled"} | changes)


def upload(**changes: Any) -> Upload:
    values = {"id": "u", "sha256": digest("u"), "size_bytes": 1, "kind": "dfm", "created_at": NOW, "expires_at": NOW}
    return Upload(**values | changes)


def token(**changes: Any) -> EnrolmentToken:
    return EnrolmentToken(**{"sha256": digest("t"), "family": "signs", "auto_accept": False, "created_at": NOW} | changes)


def costs(**changes: Any) -> Counterfactual:
    values = {"base_sha256": digest("b"), "float32_full_bytes": 1, "compressed_full_bytes": 1, "bsdiff4_float16_bytes": 1}
    return Counterfactual(**{"version_id": 1} | values | changes)


BAD_ROWS: dict[str, Callable[[], Table]] = {
    "job of no kind": lambda: job(kind="dance"),
    "job in no state": lambda: job(state="lost"),
    "job beyond its end": lambda: job(progress=1.5),
    "job before its start": lambda: job(progress=-0.1),
    "job that nobody runs": lambda: job(state="running"),
    "upload of negative size": lambda: upload(size_bytes=-1),
    "upload without digest": lambda: upload(sha256="abc"),
    "version in no state": lambda: version(state="lost"),
    "version number taken": lambda: version(version="1.0.0"),
    "release counter taken": lambda: version(release_counter=1),
    "release counter zero": lambda: version(release_counter=0),
    "version of no family": lambda: version(family="nobody"),
    "published without content": lambda: version(state="published"),
    "content digest cut": lambda: version(content_sha256="abc"),
    "content taken": lambda: version(content_sha256=digest("content signs 1.0.0")),
    "delta to itself": lambda: delta(base_id=2),
    "delta published without file": lambda: delta(state="published"),
    "delta in no state": lambda: delta(state="lost"),
    "delta retired without a reason": lambda: delta(state="retired", retired_at=NOW),
    "delta retiring at no time": lambda: delta(state="retiring", retired_because="unused"),
    "delta retired on a whim": lambda: delta(state="retired", retired_at=NOW, retired_because="whim"),
    "delta of half a digest": lambda: delta(sha256="abc"),
    "given content's digest cut": lambda: version(given_sha256="abc"),
    "unknown listing": lambda: version(listing="perhaps"),
    "lost base's digest cut": lambda: version(lost_base_sha256="abc"),
    "less than nothing lost": lambda: version(lost=-0.1),
    "delta of no version": lambda: delta(base_id=77),
    "costs below zero": lambda: costs(bsdiff4_float16_bytes=-1),
    "costs from half a digest": lambda: costs(base_sha256="abc"),
    "token used by nobody": lambda: token(used_at=NOW),
    "token used at no time": lambda: token(used_by="car-1"),
    "vehicle in no state": lambda: vehicle(state="lost"),
    "vehicle without key id": lambda: vehicle(keyid="abc"),
    "vehicle that runs half a version": lambda: vehicle(installed_version="1.0.0"),
    "presence of nobody": lambda: Presence(
        vehicle_id="nobody", seen_at=NOW, sequence=1, inferences_served=0, inferences_failed=0
    ),
    "presence below zero": lambda: Presence(
        vehicle_id="car-1", seen_at=NOW, sequence=1, inferences_served=-1, inferences_failed=0
    ),
    "two fleet revisions": lambda: FleetRevision(id=2, value=0),
    "rollout in no state": lambda: rollout(state="lost"),
    "rollout with 101 percent": lambda: rollout(error_threshold_percent=101),
    "rollout below zero percent": lambda: rollout(success_threshold_percent=-1),
    "rollout judged on nothing": lambda: rollout(min_executed=0),
    "second rollout of a family": lambda: rollout(state="paused"),
    "wave of nothing": lambda: wave(percent=0),
    "wave of more than all": lambda: wave(percent=100.5),
    "wave in no state": lambda: wave(state="lost"),
    "wave before the first": lambda: wave(ordinal=-1),
    "deployment in no state": lambda: deployment(state="lost"),
    "second deployment of a rollout": lambda: deployment(state="failed"),
    "second active deployment of a vehicle": lambda: deployment(rollout_id=2),
    "deployment with negative bytes": lambda: deployment(rollout_id=2, state="failed", received_full=-1),
    "minute below zero": lambda: RolloutMinute(rollout_id=1, minute=1, delta_bytes=-1),
    "director version zero": lambda: DirectorMetadata(vehicle_id="car-1", version=0, files=b"", expires_at=NOW),
}


def test_rows_that_make_no_sense_are_refused(database: Database) -> None:
    with database.writing() as session:
        first = add_version(session, "1.0.0")
        add_version(session, "2.0.0")
        add_vehicle(session, "car-1")
        session.add_all([rollout(version_id=first.id, state="running"), rollout(version_id=first.id, state="aborted")])
        session.flush()
        session.add(deployment())
    taken = [name for name, make in BAD_ROWS.items() if _is_taken(database, make())]
    assert not taken


def _is_taken(database: Database, row: Table) -> bool:
    try:
        with database.writing() as session:
            session.add(row)
    except IntegrityError:
        return False
    return True


def test_an_open_transaction_is_undone_when_it_fails(database: Database) -> None:
    def half() -> None:
        with database.writing() as session:
            add_version(session, "1.0.0")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    with database.reading() as session:
        assert session.execute(text("SELECT count(*) FROM versions")).scalar_one() == 0


def test_writers_wait_for_each_other_instead_of_failing(database: Database) -> None:
    with database.writing() as session:
        add_vehicle(session, "car-1")

    def bump(_: int) -> None:
        with database.writing() as session:
            fleet.touch(session, Vehicle.id == "car-1")

    with database.reading() as session:
        before = fleet.revision(session)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bump, range(40)))
    with database.reading() as session:
        assert fleet.revision(session) == before + 40
        assert fleet.changed_since(session, before + 39) == ["car-1"]
        assert not fleet.changed_since(session, before + 40)


def test_only_one_signs_at_a_time(database: Database) -> None:
    inside, most = [0], [0]
    guard = threading.Lock()

    def sign(_: int) -> None:
        with database.signing():
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.005)
            with guard:
                inside[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(sign, range(12)))
    assert most[0] == 1


def test_the_signing_lock_is_free_after_an_error(database: Database) -> None:
    with pytest.raises(RuntimeError), database.signing():
        raise RuntimeError
    with database.signing():
        pass


def test_times_come_back_in_utc(database: Database) -> None:
    with database.writing() as session:
        session.add(job(created_at=NOW))
    with database.reading() as session:
        assert session.get_one(Job, 1).created_at == NOW


def test_minutes_add_up_under_concurrency(database: Database) -> None:
    from model_registry.contract.messages import BytesReceived

    with database.writing() as session:
        session.add(rollout(version_id=add_version(session, "1.0.0").id))

    def add(_: int) -> None:
        with database.writing() as session:
            rollouts.add_minute(session, 1, 7, BytesReceived(1, 2, 3))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add, range(30)))
    with database.reading() as session:
        (row,) = rollouts.minutes(session, 1)
        assert (row.metadata_bytes, row.delta_bytes, row.full_bytes) == (30, 60, 90)


def test_deltas_survive_the_migration_that_lets_them_retire(alembic_engine: Engine) -> None:
    with alembic_engine.connect() as connection:
        config = alembic_config(alembic_engine)
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (
            "INSERT INTO families VALUES ('signs', 'ecu', '2026-01-01 00:00:00')",
            *(
                "INSERT INTO versions"
                " (id, family, version, state, release_counter, upload_id, upload_sha256, recipe, created_at)"
                f" VALUES ({n}, 'signs', '{n}.0.0', 'processing', {n}, 'u', '{'a' * 64}', '{{}}', '2026-01-01 00:00:00')"
                for n in (1, 2)
            ),
            "INSERT INTO deltas (base_id, version_id, state, created_at) VALUES (1, 2, 'queued', '2026-01-01 00:00:00')",
        ):
            connection.execute(text(statement))
        command.upgrade(config, "head")
        connection.execute(
            text("UPDATE deltas SET state = 'retired', retired_because = 'unused', retired_at = '2026-01-02 00:00:00'")
        )
        command.downgrade(config, "0001")
        assert connection.execute(text("SELECT base_id, version_id, state FROM deltas")).all() == [(1, 2, "failed")]
        command.upgrade(config, "head")
        assert connection.execute(text("SELECT state, retired_at FROM deltas")).all() == [("failed", None)]
