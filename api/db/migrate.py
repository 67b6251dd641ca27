"""Upgrades a database to the newest schema.

Migrations expand first and contract later: one that adds leaves older versions working, and says from which
schema on in the table `schema_compatibility`. So an older version may run on a newer database while pods are
replaced, or after a rollback.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from api.db.engine import WRITES, Database

log = logging.getLogger(__name__)
MIGRATION_LOCK = 7_235_112_981  # arbitrary, as long as nothing else takes the same advisory lock
LOOK_SECONDS = 0.2
COMPATIBILITY = "schema_compatibility"


class NewerDatabaseError(RuntimeError):
    """The database has a schema that this version cannot use."""


def upgrade(database: Database) -> None:
    """Run the migrations that are missing. Processes that start together take turns. Raises
    NewerDatabaseError if a newer version has changed the database so that this one cannot use it."""
    database.make_file()
    with _turn(database) as connection:
        config = alembic_config(connection)
        scripts = ScriptDirectory.from_config(config)
        known = {script.revision for script in scripts.walk_revisions()}
        present = MigrationContext.configure(connection).get_current_revision()
        if connection.dialect.name == "postgresql":
            connection.rollback()  # reading has begun a transaction, and Alembic begins its own
        if present is not None and present not in known:
            _tolerate(connection, present, ours=scripts.get_current_head() or "")
        else:
            command.upgrade(config, "head")


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration, without a file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _turn(database: Database) -> Iterator[Connection]:
    """A connection for migrations, while no other process migrates. SQLite takes all of them in one
    transaction. On PostgreSQL each has its own, because an index is made outside of any while others
    write."""
    if database.engine.dialect.name == "sqlite":
        with database.engine.connect().execution_options(**{WRITES: True}) as connection, connection.begin():
            yield connection
        return
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as lock:
        while not lock.scalar(text("SELECT pg_try_advisory_lock(:n)"), {"n": MIGRATION_LOCK}):
            time.sleep(LOOK_SECONDS)  # a process that waits within a statement would keep indexes from ending
        try:
            with database.engine.connect() as connection:
                yield connection
        finally:
            lock.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": MIGRATION_LOCK})


def _tolerate(connection: Connection, present: str, *, ours: str) -> None:
    """Accept a newer schema that says that this version may use it."""
    usable = None
    if inspect(connection).has_table(COMPATIBILITY):
        usable = connection.scalar(text(f"SELECT usable_from FROM {COMPATIBILITY}"))
    if usable is None or usable > ours:
        raise NewerDatabaseError(
            f"SECATEUR_DATABASE_URL: the database has schema {present}, and this version of Secateur knows "
            f"up to {ours}; start a version that knows {usable or present}, or restore a backup of before"
        )
    log.warning("the database has schema %s, newer than %s of this version, which may use it", present, ours)
