"""The first bytes of a pinned file come without the rest of it, from every kind of source."""

from pathlib import Path

import pytest

from pipeline.errors import SourceChanged
from pipeline.sources import SourceAccess, open_source
from pipeline.storage.s3 import S3Store
from tests.hub import Repository, cache_repository, serve_hub
from tests.servers import S3Server

DATA = bytes(range(256)) * 4000


def check(uri: str, access: SourceAccess) -> None:
    source = open_source(uri, access)
    file = next(file for file in source.pin(lambda name: True).files if file.path == "model.safetensors")
    for size in (1, 8, 1000, len(DATA) - 1, len(DATA), len(DATA) + 5):
        assert source.head(file, size) == DATA[:size]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DATA)
    access = SourceAccess(allowed_roots=(tmp_path,))
    check(f"file:{tmp_path}", access)
    source = open_source(f"file:{tmp_path}", access)
    pinned = source.pin(lambda name: True).files[0]
    path.write_bytes(DATA + b"x")
    with pytest.raises(SourceChanged):
        source.head(pinned, 8)
    path.unlink()
    with pytest.raises(SourceChanged):
        source.head(pinned, 8)


def test_the_hub_sends_the_bytes_that_are_asked_for(tmp_path: Path) -> None:
    repository = Repository({"model.safetensors": DATA}, frozenset(["model.safetensors"]))
    with serve_hub() as hub:
        hub.models["org/tiny"] = repository
        access = SourceAccess(hub_endpoint=hub.endpoint, hub_cache_dir=tmp_path / "cache")
        hub.break_after = 5000  # a connection that breaks is continued
        check("hub:org/tiny", access)
        cache_repository(tmp_path / "cache", "org/tiny", repository)
        hub.requests.clear()
        check("hub:org/tiny", access)
        assert not [path for path in hub.paths() if "/resolve/" in path]
        offline = SourceAccess(hub_cache_dir=tmp_path / "cache", hub_offline=True)
        check("hub:org/tiny", offline)


def test_a_bucket(seaweedfs_server: S3Server) -> None:
    seaweedfs_server.make_bucket("heads")
    store = S3Store("heads", "", seaweedfs_server.options)
    store.put("m/model.safetensors", [DATA])
    access = SourceAccess(s3=seaweedfs_server.options)
    check("s3://heads/m", access)
    source = open_source("s3://heads/m", access)
    pinned = source.pin(lambda name: True).files[0]
    store.put("m/model.safetensors", [DATA[::-1]])
    with pytest.raises(SourceChanged):
        source.head(pinned, 8)
