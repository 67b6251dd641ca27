"""Alembic runs this file. It migrates over the connection that api/db/migrate.py made."""

from alembic import context

from api.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
