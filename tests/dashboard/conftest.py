"""What the dashboard's tests share: empty databases of both kinds, a registry that serves, a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.database import Database
from server.tables import Table


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
