"""Registries for tests: SQLite in a folder prepared once and copied, PostgreSQL where the SQL itself is what is tested."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import hypothesis
import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.bootstrap import Registry, build, operator_token, prepare, publish_metadata
from server.database import Database, migrate
from server.settings import Settings
from tests.server.releases import Releases

# On a busy machine one example may take long.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


def settings_in(data: Path, **changes: object) -> Settings:
    """Short waits, no worker unless asked for."""
    quick = {
        "embedded_worker": False,
        "cache_poll_s": 0.05,
        "presence_flush_s": 0.05,
        "rollout_tick_s": 0.05,
        "worker_idle_s": 0.05,
        "poll_interval_s": 1.0,
        "job_retry_s": 0.1,
        "job_memory_bytes": 8 * 1024**3,
    }
    return Settings(data=data, **quick | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def prepared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after its first start: keys, tables, token, first metadata."""
    data = tmp_path_factory.mktemp("prepared") / "data"
    settings = settings_in(data)
    prepare(settings)
    registry = build(settings)
    publish_metadata(registry)
    registry.close()
    return data


@pytest.fixture
def data(prepared_data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared_data, tmp_path / "data"))


@pytest.fixture
def registry(data: Path) -> Iterator[Registry]:
    built = build(settings_in(data))
    yield built
    built.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database with tables, of each kind."""
    on_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'test.db'}" if on_sqlite else request.getfixturevalue("postgres_url")
    made = Database(url, lock_file=tmp_path / "signing.lock")
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def releases(database: Database) -> Releases:
    return Releases(database)


@pytest.fixture
def anonymous(registry: Registry) -> Iterator[httpx2.Client]:
    """The application without a token."""
    with TestClient(create_app(registry.settings, registry), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def operator(anonymous: httpx2.Client, registry: Registry) -> httpx2.Client:
    """The same application with the operator's token."""
    anonymous.headers["Authorization"] = f"Bearer {operator_token(registry.settings)}"
    return anonymous
