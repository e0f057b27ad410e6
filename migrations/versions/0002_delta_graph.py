"""What an update loses, and deltas that are retired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = "state IN ('queued', 'published', 'dropped', 'failed')"
STATES_WITH_RETIRED = "state IN ('queued', 'published', 'dropped', 'failed', 'retiring', 'retired')"
RETIRED = {
    "retired_because_known": "retired_because IN ('unused', 'dearer', 'operator')",
    "retired_is_explained": (
        "state NOT IN ('retiring', 'retired') OR (retired_because IS NOT NULL AND retired_at IS NOT NULL)"
    ),
}
# Nothing refers to a version's new columns, and much to its table: they are added in place, each with its check.
VERSION_COLUMNS = {
    "given_sha256": "VARCHAR(64) CONSTRAINT ck_versions_given_sha256_is_a_digest CHECK (length(given_sha256) = 64)",
    "lost": "{double} CONSTRAINT ck_versions_lost_not_negative CHECK (lost >= 0)",
    "lost_base_sha256": (
        "VARCHAR(64) CONSTRAINT ck_versions_lost_base_sha256_is_a_digest CHECK (length(lost_base_sha256) = 64)"
    ),
    "lossless": "BOOLEAN",
}


def _name(check: str) -> str:
    return op.f(f"ck_deltas_{check}")


def upgrade() -> None:
    double = "DOUBLE" if op.get_bind().dialect.name == "sqlite" else "DOUBLE PRECISION"
    for name, definition in VERSION_COLUMNS.items():
        typed = definition.format(double=double)
        op.execute(f"ALTER TABLE versions ADD COLUMN {name} {typed}")
    with op.batch_alter_table("deltas") as batch_op:
        batch_op.add_column(sa.Column("retired_because", sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.drop_constraint(_name("state_known"), type_="check")
        for name, text in {"state_known": STATES_WITH_RETIRED, **RETIRED}.items():
            batch_op.create_check_constraint(_name(name), text)


def downgrade() -> None:
    # To the program before, a retired delta is one that was never made.
    op.execute("UPDATE deltas SET state = 'failed' WHERE state IN ('retiring', 'retired')")
    with op.batch_alter_table("deltas") as batch_op:
        for name in ("state_known", *RETIRED):
            batch_op.drop_constraint(_name(name), type_="check")
        batch_op.create_check_constraint(_name("state_known"), STATES)
        batch_op.drop_column("retired_at")
        batch_op.drop_column("retired_because")
    for name in reversed(VERSION_COLUMNS):
        op.execute(f"ALTER TABLE versions DROP COLUMN {name}")
