"""A real API on a real port, on SQLite and on PostgreSQL. Keys are on, and every API here knows KEY."""

import asyncio
import contextlib
import os
import secrets
import threading
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
from api.client.client import SecateurClient
from api.db.engine import Database
from api.embedded import EmbeddedRay
from api.service.context import Services
from api.service.keys import keys
from api.settings import Settings
from tests.idle import IDLE_RAY
from tests.made_pins import made_pins
from tests.needs import needed
from tests.ports import free_port
from tests.servers import ServerError

BACKENDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.servers))
KEY = "sec_tests00000_" + "t" * 43  # an admin's
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class RunningApi:
    """An API that runs. `client` has an admin key, `anonymous` has none."""

    app: FastAPI
    url: str
    client: httpx.Client
    anonymous: httpx.Client

    def secateur(self) -> SecateurClient:
        """Our own client, with an admin key."""
        return SecateurClient(self.url, api_key=KEY)

    @property
    def services(self) -> Services:
        """The services of this API."""
        services = self.app.state.services
        assert isinstance(services, Services)
        return services


class _Server(uvicorn.Server):
    """A server that says when it serves and ends at once when asked. uvicorn itself looks ten times a
    second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = threading.Event()

    async def main_loop(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        await self.on_tick(0)
        self.serves.set()
        await self._end.wait()

    def end(self) -> None:
        self.should_exit = True
        if self.serves.is_set():
            self._loop.call_soon_threadsafe(self._end.set)


@contextlib.contextmanager
def running(settings: Settings, *, dispatch: bool = False, resolver: Any = made_pins) -> Iterator[RunningApi]:
    """Serve in a thread until the block ends. `settings.port` must be free."""
    needed("servers")
    app = create_app(settings, dispatch=dispatch, resolver=resolver)
    server = _Server(
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
        while not server.serves.wait(1):
            assert thread.is_alive(), "the API did not start"
        know_key(app.state.services.database)
        url = f"http://127.0.0.1:{settings.port}"
        with with_key(url) as client, _client(url) as anonymous:
            yield RunningApi(app, url, client, anonymous)
    finally:
        server.end()
        thread.join(60)


def with_key(url: str, key: str = KEY) -> httpx.Client:
    """A plain HTTP client that sends a key."""
    return _client(url, {"Authorization": f"Bearer {key}"})


def _client(url: str, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client that reads no certificates: that takes longer than many a test, and no test uses TLS."""
    return httpx.Client(base_url=url, headers=headers, trust_env=False, verify=False, timeout=120)


def know_key(database: Database) -> None:
    """Make KEY an admin key of this database."""
    with database.write() as session:
        keys.take_turns(session)
        if keys.find(session, KEY) is None:
            keys.add(session, KEY, name="tests", role="admin")


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
        defaults = {
            "state_dir": tmp_path,
            "port": free_port(),
            "ray_address": "http://127.0.0.1:9",
            "inspect_models": "off",  # its process takes seconds to start; test_inspector.py has one
        }
        return Settings(**(defaults | given))

    return make


@pytest.fixture
def api(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API without a dispatcher: jobs stay queued."""
    with running(make_settings(database_url=database_url)) as started:
        yield started


@pytest.fixture
def sqlite_api(make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API on SQLite only, for tests that do not depend on the database."""
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


@pytest.fixture(scope="package")
def embedded_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRay]:
    """A running Ray head, ended after the last test of this folder, because an idle one computes too;
    `endpoint()` returns its address and token."""
    needed("ray")
    ray = EmbeddedRay(tmp_path_factory.mktemp("ray"), environment=IDLE_RAY)
    ray.ensure()
    try:
        yield ray
    finally:
        ray.stop()
