"""The database's history, as Alembic revisions; installed with the server so that ``deltafleet migrate`` works anywhere."""
