"""The database of the service: its tables, connections for SQLite and PostgreSQL, and migrations.
Documents of `pipeline` are stored as their JSON. Queries belong to `service/`."""
