"""The cache of a node: it gives verified bytes or fetches them, whatever happens to its directory."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.reader import Place, read_tensors
from pipeline.errors import CorruptObject
from pipeline.storage import BlobRef, ContentStore, LocalStore
from pipeline.storage.cache import NodeCache
from pipeline.storage.settings import StorageSettings
from workers.settings import WorkerSettings


class Counted:
    """A store that counts its reads; the objects lie in a directory."""

    def __init__(self, root: Path) -> None:
        self.inner = LocalStore(root)
        self.reads: list[tuple[str, int, int | None]] = []
        self.put, self.stat, self.list, self.delete = (
            self.inner.put,
            self.inner.stat,
            self.inner.list,
            self.inner.delete,
        )

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.reads.append((key, start, length))
        return self.inner.get(key, start=start, length=length)


@pytest.fixture
def store(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "store")


def content_of(store: Counted, tmp_path: Path, *, limit: int = 1000, connections: int = 1) -> ContentStore:
    return ContentStore(store, cache=NodeCache(tmp_path / "cache", limit=limit), connections=connections)


def held(tmp_path: Path) -> dict[str, Path]:
    return {path.name: path for path in (tmp_path / "cache" / "held").iterdir()}


def test_a_blob_is_fetched_once_by_all_processes_of_a_node(store: Counted, tmp_path: Path) -> None:
    first, second = content_of(store, tmp_path), content_of(store, tmp_path)
    ref = first.put_bytes(b"a" * 300)
    assert [one.get_bytes(ref) for one in (first, second, first)] == [b"a" * 300] * 3
    assert len(store.reads) == 1
    assert list(held(tmp_path)) == [ref.digest]


def test_tensors_are_found_by_their_own_digest(store: Counted, tmp_path: Path) -> None:
    content = content_of(store, tmp_path, connections=4)
    data = bytes(range(200))
    ref = content.put_bytes(data)
    places = {
        str(at): Place(
            str(at),
            ref,
            TensorEntry(
                file="x",
                start=at,
                length=40,
                dtype="U8",
                shape=(4, 10),
                sha256=hashlib.sha256(data[at : at + 40]).hexdigest(),
            ),
        )
        for at in range(0, 200, 40)
    }
    for _ in range(2):
        tensors = read_tensors(content, places)
        assert list(tensors) == list(places)
        assert b"".join(tensors[name].numpy().tobytes() for name in places) == data
    assert sorted(store.reads) == [(content.key(ref), at, 40) for at in range(0, 200, 40)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"b" * 300),
        lambda path: path.write_bytes(b"a" * 299),
        lambda path: path.write_bytes(b"a" * 301),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["changed", "cut", "longer", "empty", "gone"],
)
def test_a_damaged_entry_is_fetched_again(
    store: Counted, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    content = content_of(store, tmp_path)
    ref = content.put_bytes(b"a" * 300)
    content.get_bytes(ref)
    damage(held(tmp_path)[ref.digest])
    assert content.get_bytes(ref) == b"a" * 300
    assert len(store.reads) == 2
    assert content.get_bytes(ref) == b"a" * 300
    assert len(store.reads) == 2


def test_damage_in_the_store_is_an_error_and_leaves_no_entry(store: Counted, tmp_path: Path) -> None:
    content = content_of(store, tmp_path)
    ref = content.put_bytes(b"a" * 300)
    store.put(content.key(ref), [b"b" * 300])
    with pytest.raises(CorruptObject):
        content.get_bytes(ref)
    assert held(tmp_path) == {}
    assert list((tmp_path / "cache" / "incoming").iterdir()) == []


def test_the_entry_that_was_unused_for_longest_leaves(store: Counted, tmp_path: Path) -> None:
    content = content_of(store, tmp_path, limit=900)
    a, b, c, large = (content.put_bytes(bytes([i]) * size) for i, size in enumerate((300, 300, 300, 901)))
    for age, ref in ((30, a), (20, b), (10, c)):
        content.get_bytes(ref)
        path = held(tmp_path)[ref.digest]
        now = path.stat().st_mtime
        os.utime(path, (now - age, now - age))
    content.get_bytes(a)  # so that b is the oldest
    d = content.put_bytes(b"d" * 300)
    content.get_bytes(d)
    assert set(held(tmp_path)) == {a.digest, c.digest, d.digest}
    assert content.get_bytes(large) == bytes([3]) * 901
    assert set(held(tmp_path)) == {a.digest, c.digest, d.digest}


def test_a_stream_survives_that_its_entry_leaves(store: Counted, tmp_path: Path) -> None:
    content = content_of(store, tmp_path, limit=300)
    a, b = content.put_bytes(b"a" * 300), content.put_bytes(b"b" * 300)
    content.get_bytes(a)
    running = content.stream(a)
    content.get_bytes(b)
    assert list(held(tmp_path)) == [b.digest]
    assert b"".join(running) == b"a" * 300


def test_a_disk_that_refuses_is_no_error(
    store: Counted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the directory should be")
    content = content_of(store, tmp_path)
    ref = content.put_bytes(b"a" * 300)
    assert content.get_bytes(ref) == b"a" * 300
    assert "the cache in" in caplog.text


def test_a_directory_of_another_user_is_not_used(
    store: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    content = content_of(store, tmp_path)
    ref = content.put_bytes(b"a" * 300)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "cache").stat().st_uid + 1)
    assert content.get_bytes(ref) == b"a" * 300
    assert "is not used" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_of_several_that_miss_at_once_one_fetches(tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", limit=1000)
    fetches: list[int] = []
    ref = BlobRef(digest=hashlib.sha256(b"x" * 100).hexdigest(), size=100)

    def fetch() -> Iterator[bytes]:
        fetches.append(1)
        yield b"x" * 100

    got: list[bytes] = []
    ready = threading.Barrier(6)

    def ask() -> None:
        ready.wait()
        got.append(b"".join(cache.stream(ref.digest, ref.size, fetch)))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [b"x" * 100] * 6
    assert len(fetches) == 1


def _die_while_fetching(directory: Path, digest: str) -> None:
    def fetch() -> Iterator[bytes]:
        yield b"x" * 50
        os._exit(9)

    list(NodeCache(directory, limit=1000).stream(digest, 100, fetch))


def test_a_process_that_dies_while_it_fetches_holds_nobody_up(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x" * 100).hexdigest()
    process = multiprocessing.get_context("spawn").Process(
        target=_die_while_fetching, args=(tmp_path / "cache", digest)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    cache = NodeCache(tmp_path / "cache", limit=1000)
    assert b"".join(cache.stream(digest, 100, lambda: iter([b"x" * 100]))) == b"x" * 100
    assert list(held(tmp_path)) == [digest]


def test_only_remote_storage_has_a_cache(tmp_path: Path) -> None:
    local = WorkerSettings(storage_url=f"file://{tmp_path}").content()
    remote = WorkerSettings(storage_url="s3://bucket/x", cache_dir=str(tmp_path / "c")).content()
    off = WorkerSettings(storage_url="s3://bucket/x", cache_bytes=0).content()
    assert StorageSettings(storage_url="s3://bucket/x").content().cache is None  # that of the API
    assert (local.connections, local.cache) == (1, None)
    assert remote.connections > 1
    assert remote.cache is not None
    assert remote.cache.directory == tmp_path / "c"
    assert off.cache is None
