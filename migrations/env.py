"""Alembic's entry. It runs on the Engine or Connection that the caller puts into ``config.attributes["connection"]``."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, Engine

from server.settings import load_settings
from server.tables import Table


def run() -> None:
    given = context.config.attributes.get("connection")
    if isinstance(given, Connection):
        migrate_on(given)
        return
    engine = given if isinstance(given, Engine) else _engine_from_settings()
    with engine.connect() as connection:
        migrate_on(connection)
        connection.commit()


def migrate_on(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=True,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _engine_from_settings() -> Engine:
    """For the ``alembic`` program on a developer's machine."""
    from server.database import make_engine  # noqa: PLC0415 - database imports this package

    return make_engine(load_settings().sqlalchemy_url)


run()
