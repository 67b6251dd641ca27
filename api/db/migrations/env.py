"""Alembic runs this file. It migrates over the connection that api/db/migrate.py made."""

from alembic import context

from api.db.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
