"""Pruning over a slow network: the blocks are those of a local directory."""

import time
from pathlib import Path

import pytest

from pipeline.storage import LocalStore
from pipeline.storage.settings import StorageSettings
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_beside import pruned
from tests.servers import S3Server
from tests.slow_network import slow_network
from tests.storage.conftest import BUCKET

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("one_thread", "no_gradients")]
LATENCY = 0.02


def test_a_request_takes_a_round_trip(seaweedfs_server: S3Server) -> None:
    seaweedfs_server.make_bucket(BUCKET)
    with slow_network(seaweedfs_server, latency=LATENCY, bytes_per_second=100e6) as far:
        store = StorageSettings(storage_url=f"s3://{BUCKET}/slow", s3=far.options).content().store
        store.put("a", [b"x" * 1_000_000])
        began = time.monotonic()
        assert b"".join(store.get("a")) == b"x" * 1_000_000
        assert time.monotonic() - began >= LATENCY + 0.005  # and up to 10 ms for a megabyte


def test_pruning_over_a_slow_network_gives_the_same_blocks(
    seaweedfs_server: S3Server, tmp_path: Path
) -> None:
    seaweedfs_server.make_bucket(BUCKET)
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    with slow_network(seaweedfs_server, latency=LATENCY, bytes_per_second=100e6) as far:
        settings = StorageSettings(
            storage_url=f"s3://{BUCKET}/{tmp_path.name}", s3=far.options, cache_dir=str(tmp_path / "cache")
        )
        remote = settings.cached_content()
        assert isinstance(content.store, LocalStore)
        for found in content.store.list(""):
            remote.store.put(found.key, content.store.get(found.key))
        expected = pruned(content, checkpoint).blocks
        assert pruned(remote, checkpoint, workers=2).blocks == expected
