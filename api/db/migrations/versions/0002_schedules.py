"""Schedules, their firings and sightings, and aliases"""

import sqlalchemy as sa
from alembic import op

from api.db.models import UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("updated_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("next_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("looked_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("lease_owner", sa.String(length=100), nullable=True),
        sa.Column("lease_until", UtcDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
    )
    op.create_table(
        "firings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("schedule", sa.String(length=26), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("due_at", UtcDateTime(timezone=True), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("job", sa.String(length=24), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("gates", sa.Text(), nullable=True),
        sa.Column("decided_at", UtcDateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule"], ["schedules.id"], name=op.f("fk_firings_schedule"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_firings_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_firings")),
        sa.UniqueConstraint("job", name=op.f("uq_firings_job")),
        sa.UniqueConstraint("schedule", "due_at", name=op.f("uq_firings_schedule_due_at")),
        sa.UniqueConstraint("schedule", "digest", name=op.f("uq_firings_schedule_digest")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("firings", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_firings_schedule_id"), ["schedule", "id"], unique=False)
        batch_op.create_index(batch_op.f("ix_firings_outcome"), ["outcome"], unique=False)

    op.create_table(
        "sightings",
        sa.Column("schedule", sa.String(length=26), nullable=False),
        sa.Column("source", sa.String(length=1024), nullable=False),
        sa.Column("listing", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=True),
        sa.Column("since", UtcDateTime(timezone=True), nullable=False),
        sa.Column("seen_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule"], ["schedules.id"], name=op.f("fk_sightings_schedule"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule", "source", name=op.f("pk_sightings")),
    )
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("job", sa.String(length=24), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("moved_at", UtcDateTime(timezone=True), nullable=False),
        sa.Column("moved_by", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_aliases_job")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_aliases")),
    )


def downgrade() -> None:
    op.drop_table("aliases")
    op.drop_table("sightings")
    op.drop_table("firings")
    op.drop_table("schedules")
