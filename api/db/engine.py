"""Connections: SQLite with WAL for one machine, PostgreSQL for many."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_SECONDS = 30
WRITES = "secateur_writes"
WAL_TRIES, WAL_SECONDS = 100, 0.1


class Database:
    """Opens sessions. A write session is one transaction, committed if its block raises no exception."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading, which sees one state of the database."""
        with Session(self.engine) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session for writing, which stores all of its changes or none."""
        with (
            self.engine.connect().execution_options(**{WRITES: True}) as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def make_file(self) -> None:
        """Make SQLite's file and its directory. Nobody else on the machine may read the file, nor the log
        beside it, which SQLite makes with the same rights."""
        database = self.engine.url.database
        if self.engine.dialect.name == "sqlite" and database is not None:
            Path(database).parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(database, os.O_CREAT | os.O_RDWR, 0o600))
            with contextlib.suppress(PermissionError):  # it belongs to another user, who shares it
                Path(database).chmod(0o600)

    def ping(self) -> None:
        """Raise SQLAlchemyError unless the database answers."""
        with self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ValueError(
                "SECATEUR_DATABASE_URL: SQLite needs a file, such as sqlite:////var/lib/secateur.db"
            )
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS}, pool_size=10, max_overflow=50)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        return create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=30)
    raise ValueError(
        f"SECATEUR_DATABASE_URL: got {backend!r}; write sqlite:////path or postgresql+psycopg://user@host/name"
    )


def _prepare_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # _begin_sqlite emits BEGIN
    cursor = connection.cursor()
    _write_ahead(cursor)
    cursor.execute("PRAGMA synchronous=FULL")  # a job that was accepted with 202 survives a power failure
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Switch to a write-ahead log. SQLite refuses at once, without its usual wait, when two connections to a
    new database do so together."""
    for left in range(WAL_TRIES - 1, -1, -1):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if left == 0:
                raise
            time.sleep(WAL_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    """Begin so that writers wait for each other: a reader that begins to write midway would fail instead."""
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
