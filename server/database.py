"""The database: one engine, short transactions, and the locks that hold across processes.

``reading`` and ``writing`` each give a session that is one transaction; it commits when the block ends well. On SQLite a
writing transaction takes the write lock at its start, so that it waits its turn instead of failing half-way.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session

import migrations
from server.errors import DatabaseOutdated

SQLITE_WAIT_MS = 30_000
WRITES = "deltafleet_writes"
# A number that names this product's signing lock among a database's advisory locks.
SIGNING_LOCK = 0x64656C7461


class Database:
    """One engine and its transactions. ``lock_file`` serialises signing where the database has no advisory locks."""

    def __init__(self, url: str, *, lock_file: Path) -> None:
        self.engine = make_engine(url)
        self._writing_engine = self.engine.execution_options(**{WRITES: True})
        self._lock_file = lock_file

    @property
    def is_postgresql(self) -> bool:
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent look. Nothing written here is kept."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """One transaction: committed as a whole, or nothing of it when the block raises."""
        with Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Only one process of the whole installation is in this block at a time. It ends with the process that holds it."""
        if self.is_postgresql:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:id)"), {"id": SIGNING_LOCK})
                yield
                connection.rollback()
        else:
            with locked_file(self._lock_file):
                yield

    def ping(self) -> None:
        """Raises SQLAlchemy's error when the database does not answer."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """An exclusive lock on a file, also between threads of one process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_engine(url: str) -> Engine:
    """An engine for SQLite (a file) or PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=20)
    if parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": SQLITE_WAIT_MS / 1000}, pool_size=10, max_overflow=30)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver's own transaction handling starts them late and without the write lock; see _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_WAIT_MS}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def alembic_config(engine: Engine) -> Config:
    """Alembic's configuration for the migrations that are installed beside this package."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = engine
    return config


def migrate(database: Database) -> None:
    """Bring the schema to this program's revision. Several processes may ask at once."""
    with database.signing():
        command.upgrade(alembic_config(database.engine), "head")


def require_current_schema(database: Database) -> None:
    """Raises DatabaseOutdated when ``migrate`` has not been run for this program."""
    head = ScriptDirectory.from_config(alembic_config(database.engine)).get_current_head()
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != head:
        raise DatabaseOutdated(
            f"the database is at revision {current or 'none'}, this program needs {head}", remedy="run: deltafleet migrate"
        )
