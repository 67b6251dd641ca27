"""Indexes for hundreds of thousands of jobs, limits of time, and which older versions may use the database"""

import sqlalchemy as sa
from alembic import op

from api.db.migrations.online import make_index
from api.db.models import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    make_index("ix_jobs_live", "jobs", ["id"], where={"postgresql": "live", "sqlite": "live = 1"})
    make_index("ix_jobs_queued", "jobs", ["priority", "id"], where="status = 'queued'")
    make_index("ix_jobs_status_id", "jobs", ["status", "id"])
    make_index("ix_jobs_id_model", "jobs", ["id", "model"])
    make_index("ix_events_job_type_id", "events", ["job", "type", "id"])
    op.add_column("jobs", sa.Column("max_runtime", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("deadline_at", UtcDateTime(timezone=True), nullable=True))
    op.add_column("attempts", sa.Column("heard_at", UtcDateTime(timezone=True), nullable=True))
    op.create_table(
        "schema_compatibility",
        sa.Column("usable_from", sa.String(length=8), nullable=False),
        sa.PrimaryKeyConstraint("usable_from", name="pk_schema_compatibility"),
    )
    op.execute("INSERT INTO schema_compatibility (usable_from) VALUES ('0004')")


def downgrade() -> None:
    op.drop_table("schema_compatibility")
    op.drop_column("attempts", "heard_at")
    op.drop_column("jobs", "deadline_at")
    op.drop_column("jobs", "max_runtime")
    op.drop_index("ix_events_job_type_id", table_name="events")
    op.drop_index("ix_jobs_id_model", table_name="jobs")
    op.drop_index("ix_jobs_status_id", table_name="jobs")
    op.drop_index("ix_jobs_queued", table_name="jobs")
    op.drop_index("ix_jobs_live", table_name="jobs")
