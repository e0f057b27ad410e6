"""Which published versions signed metadata names."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Added in place with its check: much refers to this table.
LISTING = "VARCHAR(16) CONSTRAINT ck_versions_listing_known CHECK (listing IN ('listed', 'leaving', 'unlisted'))"


def upgrade() -> None:
    op.execute(f"ALTER TABLE versions ADD COLUMN listing {LISTING}")
    op.execute("UPDATE versions SET listing = 'listed' WHERE state = 'published'")


def downgrade() -> None:
    op.execute("ALTER TABLE versions DROP COLUMN listing")
