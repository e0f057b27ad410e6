"""Initial tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "families",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("hardware_id", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_families")),
    )
    op.create_table(
        "fleet_revisions",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_fleet_revisions_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet_revisions")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("step", sa.String(length=128), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('compress', 'delta')", name=op.f("ck_jobs_kind_known")),
        sa.CheckConstraint(
            "state <> 'running' OR (lease_owner IS NOT NULL AND lease_until IS NOT NULL)",
            name=op.f("ck_jobs_running_is_leased"),
        ),
        sa.CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name=op.f("ck_jobs_state_known")),
        sa.CheckConstraint("progress >= 0 AND progress <= 1", name=op.f("ck_jobs_progress_is_a_share")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index("ix_jobs_state_id", ["state", "id"], unique=False)

    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_uploads_sha256_is_a_digest")),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_uploads_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_uploads_expires_at"), ["expires_at"], unique=False)

    op.create_table(
        "enrolment_tokens",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("auto_accept", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_by", sa.String(length=64), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(used_by IS NULL) = (used_at IS NULL)", name=op.f("ck_enrolment_tokens_used_by_and_when")),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_enrolment_tokens_sha256_is_a_digest")),
        sa.ForeignKeyConstraint(["family"], ["families.name"], name=op.f("fk_enrolment_tokens_family_families")),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_enrolment_tokens")),
    )
    op.create_table(
        "vehicles",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("hardware_id", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("public_key", sa.JSON(), nullable=False),
        sa.Column("keyid", sa.String(length=64), nullable=False),
        sa.Column("enrolled_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("installed_version", sa.String(length=64), nullable=True),
        sa.Column("installed_sha256", sa.String(length=64), nullable=True),
        sa.Column("installed_counter", sa.BigInteger(), nullable=True),
        sa.Column("installed_sequence", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'accepted', 'rejected')", name=op.f("ck_vehicles_state_known")),
        sa.CheckConstraint(
            "(installed_sha256 IS NULL) = (installed_version IS NULL)", name=op.f("ck_vehicles_installed_is_complete")
        ),
        sa.CheckConstraint("length(installed_sha256) = 64", name=op.f("ck_vehicles_installed_sha256_is_a_digest")),
        sa.CheckConstraint("length(keyid) = 64", name=op.f("ck_vehicles_keyid_is_a_digest")),
        sa.ForeignKeyConstraint(["family"], ["families.name"], name=op.f("fk_vehicles_family_families")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vehicles")),
    )
    with op.batch_alter_table("vehicles", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_vehicles_family"), ["family"], unique=False)
        batch_op.create_index(batch_op.f("ix_vehicles_installed_sha256"), ["installed_sha256"], unique=False)
        batch_op.create_index(batch_op.f("ix_vehicles_revision"), ["revision"], unique=False)

    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("release_counter", sa.BigInteger(), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("upload_sha256", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("content_sha256", sa.String(length=64), nullable=True),
        sa.Column("content_bytes", sa.BigInteger(), nullable=True),
        sa.Column("full_sha256", sa.String(length=64), nullable=True),
        sa.Column("full_bytes", sa.BigInteger(), nullable=True),
        sa.Column("float32_bytes", sa.BigInteger(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state <> 'published' OR (content_sha256 IS NOT NULL AND full_sha256 IS NOT NULL AND full_bytes IS NOT NULL"
            " AND content_bytes IS NOT NULL AND float32_bytes IS NOT NULL AND published_at IS NOT NULL)",
            name=op.f("ck_versions_published_is_complete"),
        ),
        sa.CheckConstraint("state IN ('processing', 'published', 'failed')", name=op.f("ck_versions_state_known")),
        sa.CheckConstraint("length(content_sha256) = 64", name=op.f("ck_versions_content_sha256_is_a_digest")),
        sa.CheckConstraint("length(full_sha256) = 64", name=op.f("ck_versions_full_sha256_is_a_digest")),
        sa.CheckConstraint("length(upload_sha256) = 64", name=op.f("ck_versions_upload_sha256_is_a_digest")),
        sa.CheckConstraint("release_counter >= 1", name=op.f("ck_versions_counter_from_one")),
        sa.ForeignKeyConstraint(["family"], ["families.name"], name=op.f("fk_versions_family_families")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_versions_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("content_sha256", name=op.f("uq_versions_content_sha256")),
        sa.UniqueConstraint("family", "release_counter", name=op.f("uq_versions_family_release_counter")),
        sa.UniqueConstraint("family", "version", name=op.f("uq_versions_family_version")),
    )
    op.create_table(
        "counterfactuals",
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("base_sha256", sa.String(length=64), nullable=False),
        sa.Column("float32_full_bytes", sa.BigInteger(), nullable=False),
        sa.Column("compressed_full_bytes", sa.BigInteger(), nullable=False),
        sa.Column("bsdiff4_float16_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "float32_full_bytes >= 0 AND compressed_full_bytes >= 0 AND bsdiff4_float16_bytes >= 0",
            name=op.f("ck_counterfactuals_not_negative"),
        ),
        sa.CheckConstraint("length(base_sha256) IN (0, 64)", name=op.f("ck_counterfactuals_base_sha256_is_a_digest")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_counterfactuals_version_id_versions")),
        sa.PrimaryKeyConstraint("version_id", "base_sha256", name=op.f("pk_counterfactuals")),
    )
    op.create_table(
        "deltas",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("base_id", sa.Integer(), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("codec", sa.String(length=16), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state <> 'published' OR (sha256 IS NOT NULL AND size_bytes IS NOT NULL AND codec IS NOT NULL)",
            name=op.f("ck_deltas_published_is_complete"),
        ),
        sa.CheckConstraint("state IN ('queued', 'published', 'dropped', 'failed')", name=op.f("ck_deltas_state_known")),
        sa.CheckConstraint("base_id <> version_id", name=op.f("ck_deltas_two_versions")),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("ck_deltas_sha256_is_a_digest")),
        sa.ForeignKeyConstraint(["base_id"], ["versions.id"], name=op.f("fk_deltas_base_id_versions")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deltas_job_id_jobs")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_deltas_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deltas")),
        sa.UniqueConstraint("base_id", "version_id", name=op.f("uq_deltas_base_id_version_id")),
    )
    with op.batch_alter_table("deltas", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_deltas_version_id"), ["version_id"], unique=False)

    op.create_table(
        "director_metadata",
        sa.Column("vehicle_id", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("target_version_id", sa.Integer(), nullable=True),
        sa.Column("files", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("version >= 1", name=op.f("ck_director_metadata_version_from_one")),
        sa.ForeignKeyConstraint(
            ["target_version_id"], ["versions.id"], name=op.f("fk_director_metadata_target_version_id_versions")
        ),
        sa.ForeignKeyConstraint(
            ["vehicle_id"], ["vehicles.id"], name=op.f("fk_director_metadata_vehicle_id_vehicles"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("vehicle_id", "version", name=op.f("pk_director_metadata")),
    )
    op.create_table(
        "presences",
        sa.Column("vehicle_id", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("inferences_served", sa.BigInteger(), nullable=False),
        sa.Column("inferences_failed", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("inferences_served >= 0 AND inferences_failed >= 0", name=op.f("ck_presences_not_negative")),
        sa.ForeignKeyConstraint(
            ["vehicle_id"], ["vehicles.id"], name=op.f("fk_presences_vehicle_id_vehicles"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("vehicle_id", name=op.f("pk_presences")),
    )
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("success_threshold_percent", sa.Double(), nullable=False),
        sa.Column("error_threshold_percent", sa.Double(), nullable=False),
        sa.Column("min_executed", sa.Integer(), nullable=False),
        sa.Column("halted_because", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('draft', 'running', 'paused', 'finished', 'aborted')", name=op.f("ck_rollouts_state_known")
        ),
        sa.CheckConstraint(
            "error_threshold_percent BETWEEN 0 AND 100", name=op.f("ck_rollouts_error_threshold_is_a_percentage")
        ),
        sa.CheckConstraint("min_executed >= 1", name=op.f("ck_rollouts_min_executed_from_one")),
        sa.CheckConstraint(
            "success_threshold_percent BETWEEN 0 AND 100", name=op.f("ck_rollouts_success_threshold_is_a_percentage")
        ),
        sa.ForeignKeyConstraint(["family"], ["families.name"], name=op.f("fk_rollouts_family_families")),
        sa.ForeignKeyConstraint(["version_id"], ["versions.id"], name=op.f("fk_rollouts_version_id_versions")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.create_index(
            "uq_rollouts_active_family",
            ["family"],
            unique=True,
            sqlite_where=sa.text("state IN ('running', 'paused')"),
            postgresql_where=sa.text("state IN ('running', 'paused')"),
        )

    op.create_table(
        "deployments",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("vehicle_id", sa.String(length=64), nullable=False),
        sa.Column("wave", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("base_version", sa.String(length=64), nullable=True),
        sa.Column("base_sha256", sa.String(length=64), nullable=False),
        sa.Column("received_metadata", sa.BigInteger(), nullable=False),
        sa.Column("received_delta", sa.BigInteger(), nullable=False),
        sa.Column("received_full", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'downloading', 'rebuilding', 'testing', 'probation', 'succeeded', 'failed', 'aborted')",
            name=op.f("ck_deployments_state_known"),
        ),
        sa.CheckConstraint("length(base_sha256) IN (0, 64)", name=op.f("ck_deployments_base_sha256_is_a_digest")),
        sa.CheckConstraint(
            "received_metadata >= 0 AND received_delta >= 0 AND received_full >= 0", name=op.f("ck_deployments_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_deployments_rollout_id_rollouts"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["vehicle_id"], ["vehicles.id"], name=op.f("fk_deployments_vehicle_id_vehicles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        sa.UniqueConstraint("rollout_id", "vehicle_id", name=op.f("uq_deployments_rollout_id_vehicle_id")),
    )
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.create_index("ix_deployments_rollout_id_wave_state", ["rollout_id", "wave", "state"], unique=False)
        batch_op.create_index(
            "uq_deployments_active_vehicle",
            ["vehicle_id"],
            unique=True,
            sqlite_where=sa.text("state NOT IN ('succeeded', 'failed', 'aborted')"),
            postgresql_where=sa.text("state NOT IN ('succeeded', 'failed', 'aborted')"),
        )

    op.create_table(
        "rollout_minutes",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("metadata_bytes", sa.BigInteger(), nullable=False),
        sa.Column("delta_bytes", sa.BigInteger(), nullable=False),
        sa.Column("full_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "metadata_bytes >= 0 AND delta_bytes >= 0 AND full_bytes >= 0", name=op.f("ck_rollout_minutes_not_negative")
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_minutes_rollout_id_rollouts"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("rollout_id", "minute", name=op.f("pk_rollout_minutes")),
    )
    op.create_table(
        "waves",
        sa.Column("rollout_id", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("percent", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("pardoned_executed", sa.Integer(), nullable=False),
        sa.Column("pardoned_failed", sa.Integer(), nullable=False),
        sa.CheckConstraint("state IN ('scheduled', 'open', 'done')", name=op.f("ck_waves_state_known")),
        sa.CheckConstraint(
            "ordinal >= 0 AND pardoned_executed >= 0 AND pardoned_failed >= 0", name=op.f("ck_waves_not_negative")
        ),
        sa.CheckConstraint("percent > 0 AND percent <= 100", name=op.f("ck_waves_percent_is_a_share")),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.id"], name=op.f("fk_waves_rollout_id_rollouts"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "ordinal", name=op.f("pk_waves")),
    )
    op.execute("INSERT INTO fleet_revisions (id, value) VALUES (1, 0)")


def downgrade() -> None:
    op.drop_table("waves")
    op.drop_table("rollout_minutes")
    with op.batch_alter_table("deployments", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_deployments_active_vehicle",
            sqlite_where=sa.text("state NOT IN ('succeeded', 'failed', 'aborted')"),
            postgresql_where=sa.text("state NOT IN ('succeeded', 'failed', 'aborted')"),
        )
        batch_op.drop_index("ix_deployments_rollout_id_wave_state")

    op.drop_table("deployments")
    with op.batch_alter_table("rollouts", schema=None) as batch_op:
        batch_op.drop_index(
            "uq_rollouts_active_family",
            sqlite_where=sa.text("state IN ('running', 'paused')"),
            postgresql_where=sa.text("state IN ('running', 'paused')"),
        )

    op.drop_table("rollouts")
    op.drop_table("presences")
    op.drop_table("director_metadata")
    with op.batch_alter_table("deltas", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_deltas_version_id"))

    op.drop_table("deltas")
    op.drop_table("counterfactuals")
    op.drop_table("versions")
    with op.batch_alter_table("vehicles", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_vehicles_revision"))
        batch_op.drop_index(batch_op.f("ix_vehicles_installed_sha256"))
        batch_op.drop_index(batch_op.f("ix_vehicles_family"))

    op.drop_table("vehicles")
    op.drop_table("enrolment_tokens")
    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_uploads_expires_at"))

    op.drop_table("uploads")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_state_id")

    op.drop_table("jobs")
    op.drop_table("fleet_revisions")
    op.drop_table("families")
