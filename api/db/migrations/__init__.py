"""Alembic reads these; api/db/migrate.py runs them."""
