"""A real API on a real port, on SQLite and on PostgreSQL."""

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.service.context import Services
from api.settings import Settings
from tests.api.pins import pinned
from tests.servers import ServerError

BACKENDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class RunningApi:
    """An API that serves."""

    app: FastAPI
    url: str
    client: httpx.Client

    @property
    def services(self) -> Services:
        """Its inside."""
        services = self.app.state.services
        assert isinstance(services, Services)
        return services


@contextlib.contextmanager
def running(settings: Settings, *, dispatch: bool = False, resolver: Any = pinned) -> Iterator[RunningApi]:
    """Serve in a thread until the block ends. `settings.port` must be free."""
    app = create_app(settings, dispatch=dispatch, resolver=resolver)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host="127.0.0.1",
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the API did not start"
            time.sleep(0.01)
        url = f"http://127.0.0.1:{settings.port}"
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            yield RunningApi(app, url, client)
    finally:
        server.should_exit = True
        thread.join(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of the test's own."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/secateur.db"
        return
    server = _postgres(request)
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield server.rpartition("/")[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with a state directory of the test's own, a free port, and no Ray."""

    def make(**given: Any) -> Settings:
        defaults = {"state_dir": tmp_path, "port": free_port(), "ray_address": "http://127.0.0.1:9"}
        return Settings(**(defaults | given))

    return make


@pytest.fixture
def api(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API without a dispatcher: jobs stay queued."""
    with running(make_settings(database_url=database_url)) as started:
        yield started


@pytest.fixture
def sqlite_api(make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """The same, for what has nothing to do with the database."""
    with running(make_settings()) as started:
        yield started


def _postgres(request: pytest.FixtureRequest) -> str:
    try:
        url = request.getfixturevalue("postgres_url")
    except ServerError as error:
        if os.environ.get("CI") == "true" or "not installed" not in str(error):
            raise
        pytest.skip(str(error))
    assert isinstance(url, str)
    return url


@pytest.fixture(scope="session")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """One API for all tests that leave nothing behind."""
    state = tmp_path_factory.mktemp("api")
    with running(Settings(state_dir=state, port=free_port(), ray_address="http://127.0.0.1:9")) as started:
        yield started
