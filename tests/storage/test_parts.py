"""Cutting, sending and resuming, without any server."""

import threading
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorruptObject, StorageUnavailable
from pipeline.storage import parts, resume
from pipeline.storage.parts import DOUBLING_PARTS, EQUAL_PARTS, MAX_PARTS, PART_BYTES, cut, part_bytes, send
from pipeline.storage.resume import Body, BrokenBody, read_resuming

GIB = 1024**3


@given(chunks=st.lists(st.binary(max_size=20)), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_parts_are_the_same_bytes_in_the_wanted_sizes(chunks: list[bytes], sizes: list[int]) -> None:
    def wanted(index: int) -> int:
        return sizes[min(index, len(sizes) - 1)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "part_bytes", wanted)
        found = list(cut(chunks))
    assert b"".join(found) == b"".join(chunks)
    assert all(found)
    assert [len(part) for part in found[:-1]] == [wanted(i) for i in range(len(found) - 1)]
    assert not found or len(found[-1]) <= wanted(len(found) - 1)


def test_parts_are_equal_at_first_and_suffice_for_the_largest_object() -> None:
    sizes = [part_bytes(index) for index in range(MAX_PARTS)]
    assert set(sizes[:EQUAL_PARTS]) == {PART_BYTES}
    assert sizes[EQUAL_PARTS] == 2 * PART_BYTES
    assert sizes[EQUAL_PARTS + DOUBLING_PARTS] == 4 * PART_BYTES
    assert sizes == sorted(sizes)
    assert max(sizes) < 5 * GIB  # S3's limit for a part
    assert sum(sizes) > 4.5 * 1024 * GIB


def test_receipts_come_in_order_with_few_parts_in_flight() -> None:
    lock, flying, most = threading.Lock(), 0, 0
    third_began = threading.Event()

    def send_one(number: int, part: bytes) -> tuple[int, bytes]:
        nonlocal flying, most
        with lock:
            flying += 1
            most = max(most, flying)
        if number == 3:
            third_began.set()
        if number == 1:
            third_began.wait()  # the first one does not end first
        with lock:
            flying -= 1
        return number, part

    found = list(send([b"%d" % i for i in range(1, 20)], send_one, threads=3))
    assert found == [(i, b"%d" % i) for i in range(1, 20)]
    assert 2 <= most <= 3


def test_a_part_that_fails_stops_the_others() -> None:
    sent = []

    def send_one(number: int, part: bytes) -> int:
        sent.append(number)
        if number == 2:
            raise StorageUnavailable("gone")
        return number

    with pytest.raises(StorageUnavailable, match="gone"):
        list(send([b"x"] * 100, send_one, threads=3))
    assert len(sent) <= 6


def broken_at(data: bytes, position: int, stop: int, *, short: bool) -> Body:
    def chunks() -> Generator[bytes, None, None]:
        yield from (data[i : i + 1] for i in range(position, stop))
        if stop < len(data):
            raise BrokenBody("cut", short=short)

    return Body(chunks(), end=len(data), version="v")


@given(data=st.binary(min_size=1, max_size=30), steps=st.lists(st.integers(0, 5), max_size=12))
def test_any_breaks_with_progress_between_them_are_bridged(data: bytes, steps: list[int]) -> None:
    pending = list(steps)
    stalled = longest = 0
    for step in steps:
        stalled = 0 if step else stalled + 1
        longest = max(longest, stalled)

    def open_at(position: int, previous: Body | None) -> Body:
        assert (previous is None) == (len(pending) == len(steps) and position == 0)
        stop = min(len(data), position + pending.pop(0)) if pending else len(data)
        return broken_at(data, position, stop, short=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "BACKOFF_SECONDS", 0)
        assert b"".join(read_resuming(open_at, start=0, what="it", attempts=longest + 1)) == data


@pytest.mark.parametrize(("short", "kind"), [(True, CorruptObject), (False, StorageUnavailable)])
def test_breaks_without_progress_end_in_an_error(
    monkeypatch: pytest.MonkeyPatch, short: bool, kind: type[Exception]
) -> None:
    monkeypatch.setattr(resume, "BACKOFF_SECONDS", 0)
    opened = []

    def open_at(position: int, previous: Body | None) -> Body:
        opened.append(position)
        return broken_at(b"abcdef", position, max(position, 3), short=short)

    with pytest.raises(kind, match="the thing stopped 5 times at byte 3 of 6"):
        list(read_resuming(open_at, start=0, what="the thing"))
    assert opened == [0, 3, 3, 3, 3, 3]
