"""Killed writers, bounded memory, and what an import costs."""

import base64
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.storage import CHUNK_BYTES, ContentStore, LocalStore, Store
from pipeline.storage.base import INCOMING
from pipeline.storage.local import ABANDONED_SECONDS
from pipeline.storage.parts import PART_BYTES
from tests.storage.conftest import Place

REPOSITORY = Path(__file__).parents[2]
MIB = 1024 * 1024
STREAM_BYTES = 200 * MIB

WRITER = """
import base64, json, pickle, sys, time
from pipeline.storage import open_store

given = json.load(sys.stdin)
options = given["options"] and pickle.loads(base64.b64decode(given["options"]))

def chunks():
    for _ in range(40):
        yield bytes(1024 * 1024)
    print("half", flush=True)
    time.sleep(600)

open_store(given["url"], options).put("the/object", chunks())
"""


@contextlib.contextmanager
def writer(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of a put of 40 MiB and more."""
    options = None if place.options is None else base64.b64encode(pickle.dumps(place.options)).decode()
    command = [sys.executable, "-c", WRITER]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"url": place.url, "options": options}))
            process.stdin.close()
            assert process.stdout.readline() == "half\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_killed_writer_leaves_what_was_there(place: Place, before: bytes | None) -> None:
    store = place.open()
    if before is not None:
        store.put("the/object", [before])

    with writer(place) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    if before is None:
        assert store.stat("the/object") is None
        assert list(store.list("")) == []
    else:
        assert [info.size for info in store.list("")] == [len(before)]
        assert b"".join(store.get("the/object")) == before
    store.put("the/object", [b"new"])
    assert b"".join(store.get("the/object")) == b"new"


def test_what_killed_writers_left_is_removed_after_days(tmp_path: Path) -> None:
    place = Place(f"file://{tmp_path / 'store'}", None)
    with writer(place):
        pass
    (left,) = (tmp_path / "store" / INCOMING).iterdir()

    LocalStore(tmp_path / "store").put("a", [b"x"])
    assert left.exists()
    long_ago = time.time() - ABANDONED_SECONDS - 60
    os.utime(left, (long_ago, long_ago))
    LocalStore(tmp_path / "store").put("a", [b"x"])
    assert not left.exists()


def test_a_stream_is_never_held_whole(store: Store, tmp_path: Path) -> None:
    content = ContentStore(store, spool_dir=tmp_path)
    chunk = bytes(range(256)) * (4 * MIB // 256)
    limit = 3 * CHUNK_BYTES if isinstance(store, LocalStore) else 5 * PART_BYTES
    tracemalloc.start()
    try:
        ref = content.put_stream(chunk for _ in range(STREAM_BYTES // len(chunk)))
        _, put_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        received = sum(len(part) for part in content.stream(ref))
        _, get_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert ref.size == received == STREAM_BYTES
    assert put_peak < limit + 4 * MIB
    assert get_peak < 3 * CHUNK_BYTES + 4 * MIB
    store.delete(content.key(ref))


def test_importing_storage_does_not_load_boto3(tmp_path: Path) -> None:
    code = (
        "import sys, pipeline.storage as s; s.open_store(sys.argv[1]); "
        "assert not {'boto3', 'botocore', 'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path.as_uri()], cwd=REPOSITORY, check=True)


def test_a_root_that_is_no_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        store.put("a", [b"x"])
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        store.probe()
    assert store.stat("a") is None
    assert list(store.list("")) == []


def test_an_object_below_an_object_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", [b"x"])
    for key in ("a", "a/b/c"):
        with pytest.raises(StorageError, match=rf"{key} in {tmp_path}"):
            store.put(key, [b"y"])
    assert [info.key for info in store.list("")] == ["a/b"]
    assert list((tmp_path / INCOMING).iterdir()) == []
