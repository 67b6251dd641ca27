"""The gate of the tests of whole jobs: what it holds waits, and comes through when it opens."""

import threading
from collections.abc import Iterator

import pytest

from pipeline.storage import Store, open_store
from tests.servers import S3Server
from tests.storage.conftest import s3_place
from tests.storage.gate import Gate, gate_before

SECONDS = 300  # a request is held long before


@pytest.fixture
def gate(seaweedfs_server: S3Server) -> Iterator[Gate]:
    with gate_before(seaweedfs_server) as gate:
        yield gate


@pytest.fixture
def store(gate: Gate, seaweedfs_server: S3Server) -> Store:
    return open_store(s3_place(seaweedfs_server).url, gate.server.options)


def put(store: Store, key: str) -> threading.Thread:
    """Another thread that stores an object."""
    thread = threading.Thread(target=store.put, args=(key, [b"x"]))
    thread.start()
    return thread


def test_a_held_request_comes_through_when_the_gate_opens(gate: Gate, store: Store) -> None:
    with gate.closed("PUT .*/held$"):
        waiting = put(store, "held")
        assert gate.holds(SECONDS)
        store.put("other", [b"x"])
        assert [info.key for info in store.list("")] == ["other"]
        gate.close("PUT .*/next$")
        waiting.join()
        assert not gate.holds(0)
        waiting = put(store, "next")
        assert gate.holds(SECONDS)
        assert store.stat("next") is None
    waiting.join()
    assert [info.key for info in store.list("")] == ["held", "next", "other"]


def test_a_gate_may_close_after_another_request(gate: Gate, store: Store) -> None:
    with gate.closed("PUT .*/held$", after="GET .*/sign$"):
        store.put("held", [b"x"])
        store.put("sign", [b"x"])
        assert b"".join(store.get("sign")) == b"x"
        waiting = put(store, "held")
        assert gate.holds(SECONDS)
    waiting.join()
