"""The stores that the contract holds for: a directory, a real S3 server, and a weak one."""

import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.storage import ContentStore, S3Options, Store, open_store
from tests.servers import S3Server

BUCKET = "contract"
S3 = [pytest.param(name, marks=pytest.mark.servers) for name in ("seaweedfs", "rclone")]


@dataclass(frozen=True)
class Place:
    """An empty store that a test has for itself; may be opened several times."""

    url: str
    options: S3Options | None

    def open(self) -> Store:
        return open_store(self.url, self.options)


@pytest.fixture(params=["local", *S3])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return Place(f"file://{tmp_path / 'store'}", None)
    return s3_place(request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture(params=S3)
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    server.make_bucket(BUCKET)
    return server


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def content(store: Store) -> ContentStore:
    return ContentStore(store)


def s3_place(server: S3Server) -> Place:
    server.make_bucket(BUCKET)
    return Place(f"s3://{BUCKET}/{uuid.uuid4().hex}/nested", server.options)
