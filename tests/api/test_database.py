"""Migrations and what the database promises, on both databases."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from api.db.engine import Database
from api.db.migrate import alembic_config, upgrade
from api.db.models import Base, JobLabel


def differences(database: Database) -> list[object]:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def test_migrations_make_the_models(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    assert differences(database) == []
    upgrade(database)
    database.close()


def test_migrations_go_back(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    with database.engine.connect() as connection, connection.begin():
        command.downgrade(alembic_config(connection), "base")
    assert len(differences(database)) >= len(Base.metadata.tables)
    upgrade(database)
    assert differences(database) == []
    database.close()


def test_processes_that_start_together_take_turns(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(upgrade, databases))
    assert differences(databases[0]) == []
    for database in databases:
        database.close()


def test_command_migrates(database_url: str) -> None:
    environment = {"SECATEUR_DATABASE_URL": database_url, "PATH": ""}
    subprocess.run([sys.executable, "-m", "api.db"], env=environment, check=True)
    database = Database(database_url)
    assert differences(database) == []
    database.close()


def test_foreign_keys_hold(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    with pytest.raises(IntegrityError), database.write() as session:
        session.add(JobLabel(job="job-nothing", key="a", value="b"))
    database.close()


def test_sqlite_is_set_up_for_many_threads(tmp_path: object) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA busy_timeout")).scalar() == 30_000
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="SECATEUR_DATABASE_URL"):
        Database(url)
