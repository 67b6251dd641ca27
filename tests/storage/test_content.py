"""Blobs and records: verified on every store."""

import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.canonical import Frozen
from pipeline.errors import CorruptObject, ObjectNotFound, SourceChanged
from pipeline.storage import BlobRef, ContentStore, LocalStore, Store
from pipeline.storage.parts import PART_BYTES

DATA = random.Random(1).randbytes(100_000)


class Record(Frozen):
    name: str
    values: tuple[float, ...] = ()


class CountingStore(LocalStore):
    """Counts the uploads."""

    puts = 0

    def put(self, key: str, chunks: object) -> None:
        self.puts += 1
        super().put(key, chunks)  # type: ignore[arg-type]


def test_four_ways_to_put_give_one_blob(content: ContentStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    expected = BlobRef(digest=sha256(DATA).hexdigest(), size=len(DATA))

    assert content.put_bytes(DATA) == expected
    assert content.put_file(path) == expected
    assert content.put_stream(iter([DATA[:10], b"", DATA[10:]])) == expected
    assert content.put_repeatable(lambda: iter([DATA[:10], b"", DATA[10:]])) == expected
    assert content.get_bytes(expected) == b"".join(content.stream(expected)) == DATA
    assert content.has(expected)
    key = f"blobs/sha256/{expected.digest[:2]}/{expected.digest}"
    assert content.key(expected) == key
    assert [info.key for info in content.store.list("blobs/")] == [key]


def test_a_multipart_blob_comes_back(content: ContentStore) -> None:
    data = DATA * (PART_BYTES // len(DATA) + 2)
    ref = content.put_stream(data[i : i + 3_000_000] for i in range(0, len(data), 3_000_000))
    assert content.get_bytes(ref) == data


def test_the_empty_blob_comes_back(content: ContentStore) -> None:
    ref = content.put_stream([])
    assert ref == content.put_bytes(b"")
    assert content.get_bytes(ref) == b""


def test_a_truncated_blob_is_named_before_its_first_chunk(content: ContentStore) -> None:
    ref = content.put_bytes(DATA)
    content.store.put(content.key(ref), [DATA[:-1]])

    assert not content.has(ref)
    with pytest.raises(CorruptObject, match=rf"{content.key(ref)}.*expected 100000 bytes, got 99999"):
        next(content.stream(ref))


def test_a_longer_blob_is_named(content: ContentStore) -> None:
    ref = content.put_bytes(DATA)
    content.store.put(content.key(ref), [DATA, b"!"])
    with pytest.raises(CorruptObject, match=rf"{content.key(ref)}.*expected 100000 bytes, got 100001"):
        content.get_bytes(ref)


def test_an_altered_blob_is_named_with_both_digests(content: ContentStore) -> None:
    ref = content.put_bytes(DATA)
    altered = DATA[:50_000] + bytes([DATA[50_000] ^ 1]) + DATA[50_001:]
    content.store.put(content.key(ref), [altered])

    with pytest.raises(
        CorruptObject, match=rf"{content.key(ref)}.*{ref.digest}.*{sha256(altered).hexdigest()}"
    ):
        content.get_bytes(ref)


def test_a_put_mends_a_blob_of_another_size(content: ContentStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    ref = content.put_bytes(DATA)
    puts: list[Callable[[], BlobRef]] = [
        lambda: content.put_bytes(DATA),
        lambda: content.put_file(path),
        lambda: content.put_stream([DATA]),
        lambda: content.put_repeatable(lambda: iter([DATA])),
    ]
    for put in puts:
        content.store.put(content.key(ref), [b"cut"])
        assert put() == ref
        assert content.get_bytes(ref) == DATA


def test_a_blob_that_is_there_is_not_put_again(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "store")
    content = ContentStore(store)
    path = tmp_path / "file"
    path.write_bytes(DATA)

    content.put_file(path)
    content.put_bytes(DATA)
    content.put_stream([DATA])
    content.put_repeatable(lambda: [DATA])
    assert store.puts == 1


def test_a_missing_blob_is_named(content: ContentStore) -> None:
    ref = BlobRef(digest="0" * 64, size=3)
    assert not content.has(ref)
    with pytest.raises(ObjectNotFound, match=content.key(ref)):
        content.get_bytes(ref)


def test_many_writers_of_one_blob_agree(content: ContentStore) -> None:
    data = DATA * 10
    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(lambda _: content.put_bytes(data), range(16)))
    assert len(set(refs)) == 1
    assert content.get_bytes(refs[0]) == data
    assert len(list(content.store.list(""))) == 1


def test_readers_see_whole_objects_while_writers_replace_them(
    store: Store, request: pytest.FixtureRequest
) -> None:
    """The weak server may say for a moment that an object is not there, while it is replaced."""
    vanishing = "rclone" in request.node.callspec.id
    versions = [bytes([i]) * 300_000 for i in range(4)]
    store.put("same", [versions[0]])

    def write(data: bytes) -> None:
        for _ in range(5):
            store.put("same", (data[i : i + 50_000] for i in range(0, len(data), 50_000)))

    def look(_: int) -> bytes | None:
        try:
            return b"".join(store.get("same"))
        except ObjectNotFound:
            return None

    with ThreadPoolExecutor(6) as pool:
        writes = [pool.submit(write, data) for data in versions]
        for seen in pool.map(look, range(20)):
            assert seen in versions or (seen is None and vanishing)
        for done in writes:
            done.result()
    assert look(0) in versions


def test_a_file_that_changes_while_it_is_stored_is_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)

    class Disturbed(LocalStore):
        def put(self, key: str, chunks: object) -> None:
            path.write_bytes(DATA[::-1])
            super().put(key, chunks)  # type: ignore[arg-type]

    content = ContentStore(Disturbed(tmp_path / "store"))
    with pytest.raises(SourceChanged, match=str(path)):
        content.put_file(path)
    assert list(content.store.list("")) == []


def test_a_record_comes_back(content: ContentStore) -> None:
    record = Record(name="größe", values=(0.1, 1e300, -0.0))
    content.put_model("jobs/1/result.json", record)
    assert content.get_model("jobs/1/result.json", Record) == record
    content.put_model("jobs/1/result.json", Record(name="later"))
    assert content.get_model("jobs/1/result.json", Record) == Record(name="later")
    with pytest.raises(ObjectNotFound, match=r"jobs/2/result\.json"):
        content.get_model("jobs/2/result.json", Record)


def test_every_truncation_and_alteration_of_a_record_is_named(content: ContentStore) -> None:
    content.put_model("record.json", Record(name="abc", values=(1.5,)))
    data = b"".join(content.store.get("record.json"))
    damaged = [data[:cut] for cut in (0, 1, len(data) // 2, len(data) - 1)]
    damaged += [
        data.replace(b"abc", b"abd"),
        data.replace(b"1.5", b"1.6"),
        data[::-1],
        b"[]",
        b'"x"',
        b"\xff\x00",
    ]
    for bad in damaged:
        content.store.put("record.json", [bad])
        with pytest.raises(CorruptObject, match=r"record\.json"):
            content.get_model("record.json", Record)


def test_a_record_of_another_kind_is_named(content: ContentStore) -> None:
    content.put_model("record.json", BlobRef(digest="0" * 64, size=0))
    with pytest.raises(CorruptObject, match=r"(?s)record\.json.*a valid Record.*name"):
        content.get_model("record.json", Record)


@given(data=st.binary(min_size=1, max_size=400), position=st.integers(min_value=0), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=40)
def test_any_altered_byte_of_a_record_or_blob_is_noticed(data: bytes, position: int, flip: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        content = ContentStore(LocalStore(Path(directory)))
        ref = content.put_bytes(data)
        content.put_model("record", Record(name=data.hex()))
        for key in (content.key(ref), "record"):
            stored = bytearray(b"".join(content.store.get(key)))
            stored[position % len(stored)] ^= flip
            content.store.put(key, [bytes(stored)])
        with pytest.raises(CorruptObject, match=ref.digest):
            content.get_bytes(ref)
        with pytest.raises(CorruptObject, match="record"):
            content.get_model("record", Record)


@given(
    data=st.binary(max_size=3000),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
@settings(deadline=None, max_examples=60)
def test_a_blob_does_not_depend_on_how_it_is_cut(data: bytes, cuts: list[int]) -> None:
    def chunks() -> Iterator[bytes]:
        for start, end in pairwise([0, *sorted(cuts), len(data)]):
            yield data[start:end] if start < len(data) else b""

    with tempfile.TemporaryDirectory() as directory:
        content = ContentStore(LocalStore(Path(directory)))
        ref = content.put_stream(chunks())
        assert ref == BlobRef(digest=sha256(data).hexdigest(), size=len(data)) == content.put_bytes(data)
        assert content.get_bytes(ref) == data


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n", "../" * 22])
def test_a_digest_that_is_none_is_refused(digest: str) -> None:
    with pytest.raises(ValidationError):
        BlobRef(digest=digest, size=0)
