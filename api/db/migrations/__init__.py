"""The migrations of the database. Alembic reads them; api/db/migrate.py runs them."""
