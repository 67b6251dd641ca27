"""What every store does alike."""

import random
from collections.abc import Iterator

import pytest

from pipeline.errors import CorruptObject, ObjectNotFound
from pipeline.storage import Prober, Store
from pipeline.storage.parts import PART_BYTES

MULTIPART = random.Random(0).randbytes(2 * PART_BYTES + 12345)
BAD_KEYS = [
    "",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a\nb",
    "ä",
    ".incoming/a",
    "a" * 901,
]
BAD_RANGES = [(-1, None), (0, -1), (-1, -1)]


def read(store: Store, key: str, *, start: int = 0, length: int | None = None) -> bytes:
    return b"".join(store.get(key, start=start, length=length))


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize("data", [b"", b"x", b"\x00\xff" * 5000], ids=["empty", "one", "small"])
def test_an_object_comes_back_as_it_was_put(store: Store, data: bytes) -> None:
    store.put("a/b.bin", chunked(data, 777))

    found = store.stat("a/b.bin")
    assert read(store, "a/b.bin") == data
    assert found is not None
    assert (found.key, found.size) == ("a/b.bin", len(data))
    assert found.version
    assert list(store.list("")) == [found]


@pytest.mark.parametrize("size", [PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, len(MULTIPART)])
def test_objects_around_the_part_size_come_back(store: Store, size: int) -> None:
    data = MULTIPART[:size]
    store.put("big", chunked(data, 5_000_011))

    assert read(store, "big") == data
    assert read(store, "big", start=size - 10, length=10) == data[-10:]


def test_one_chunk_may_be_larger_than_a_part(store: Store) -> None:
    store.put("big", [b"ab", b"", MULTIPART, b"yz"])
    assert read(store, "big") == b"ab" + MULTIPART + b"yz"


@pytest.mark.parametrize(("start", "length"), [(0, 4), (3, 4), (3, None), (0, 10), (9, 1)])
def test_a_range_gives_its_bytes(store: Store, start: int, length: int | None) -> None:
    store.put("digits", [b"0123456789"])
    expected = b"0123456789"[start : None if length is None else start + length]
    assert read(store, "digits", start=start, length=length) == expected


@pytest.mark.parametrize(("start", "length"), [(0, 0), (4, 0), (10, 0), (10, None)])
def test_an_empty_range_gives_nothing(store: Store, start: int, length: int | None) -> None:
    store.put("digits", [b"0123456789"])
    assert read(store, "digits", start=start, length=length) == b""


@pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (11, None), (11, 0), (500, 20)])
def test_a_range_beyond_the_end_is_corruption_with_both_sizes(
    store: Store, start: int, length: int | None
) -> None:
    store.put("digits", [b"0123456789"])
    with pytest.raises(CorruptObject, match=rf"digits.*truncated.*{start + (length or 0)} bytes, got 10"):
        read(store, "digits", start=start, length=length)


@pytest.mark.parametrize(("start", "length"), BAD_RANGES)
def test_a_negative_range_is_refused_at_once(store: Store, start: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="negative"):
        store.get("digits", start=start, length=length)


@pytest.mark.parametrize(("start", "length"), [(0, None), (0, 5), (5, None), (0, 0)])
def test_a_missing_key_is_named(store: Store, start: int, length: int | None) -> None:
    store.put("there/too", [b"x"])
    for key in ("absent/key", "there"):
        with pytest.raises(ObjectNotFound, match=key):
            read(store, key, start=start, length=length)
        assert store.stat(key) is None


def test_a_put_replaces_whatever_was_there(store: Store) -> None:
    previous = None
    for data in (b"first", MULTIPART, b"", b"a longer third"):
        store.put("same", [data])
        found = store.stat("same")
        assert read(store, "same") == data
        assert found is not None
        assert found != previous
        previous = found


def test_a_list_is_in_key_order_and_its_prefix_is_a_string_prefix(store: Store) -> None:
    keys = ["a-b", "a.b", "a/b", "a/b2/.hidden", "a/b2/y", "a/b2-", "a/c", "ab/x", "B", "z", "sp ace/&+%25=~"]
    for key in keys:
        store.put(key, [key.encode()])

    assert [info.key for info in store.list("")] == sorted(keys)
    for prefix in ("a", "a/", "a/b", "a/b2", "a/b2/", "a/b2/.h", "sp ace/", "nothing", "a/b/", "a/c"):
        found = list(store.list(prefix))
        assert [info.key for info in found] == sorted(key for key in keys if key.startswith(prefix))
        assert found == [store.stat(info.key) for info in found]


def test_a_list_of_an_empty_store_is_empty(store: Store) -> None:
    assert list(store.list("")) == []
    assert list(store.list("some/where")) == []


def test_a_delete_may_be_repeated(store: Store) -> None:
    store.put("a/gone", [b"x"])
    store.put("a/stays", [b"x"])
    for _ in range(2):
        store.delete("a/gone")
        assert store.stat("a/gone") is None
        assert [info.key for info in store.list("")] == ["a/stays"]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    for use in (lambda: store.put(key, [b"x"]), lambda: store.get(key), lambda: store.stat(key)):
        with pytest.raises(ValueError, match="storage key"):
            use()
    with pytest.raises(ValueError, match="storage key"):
        store.delete(key)


@pytest.mark.parametrize("prefix", ["/", "../", "a//b", "a/../b", "ä"])
def test_a_prefix_of_no_key_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(ValueError, match="storage prefix"):
        store.list(prefix)


@pytest.mark.parametrize("size", [1000, PART_BYTES + 1, len(MULTIPART)])
def test_a_put_whose_chunks_fail_leaves_what_was_there(store: Store, size: int) -> None:
    def broken() -> Iterator[bytes]:
        yield MULTIPART[:size]
        raise OSError("the source broke")

    store.put("kept", [b"old"])
    for key in ("kept", "fresh"):
        with pytest.raises(OSError, match="the source broke"):
            store.put(key, broken())

    assert read(store, "kept") == b"old"
    assert [info.key for info in store.list("")] == ["kept"]


def test_a_get_may_be_left_half_read(store: Store) -> None:
    store.put("big", [MULTIPART])
    for _ in range(30):
        assert MULTIPART.startswith(next(iter(store.get("big"))))
    assert read(store, "big", start=7, length=5) == MULTIPART[7:12]


def test_a_working_store_passes_its_probe(store: Store) -> None:
    assert isinstance(store, Prober)
    store.probe()
    assert list(store.list("")) == []
