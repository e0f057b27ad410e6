"""What the dashboard's tests share: empty databases of both kinds, and a registry that serves a busy fleet."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.database import Database
from server.tables import Table
from tests.dashboard.host import Served, serving
from tests.dashboard.seed import busy_fleet


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of the current schema."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'registry.db'}"
    database = Database(url, lock_file=tmp_path / "signing.lock")
    Table.metadata.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registry with a busy fleet; rollout 3 is under way. A module's tests share it, so each changes only rows of its own."""
    with serving(tmp_path_factory.mktemp("registry")) as served:
        with served.database.writing() as session:
            busy_fleet(session, datetime.now(UTC))
        yield served
