"""Cuts a stream of unknown length into the parts of a multipart upload, and sends them in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipeline.storage.base import Chunk

PART_BYTES = 16 * 1024 * 1024
MAX_PARTS = 10_000  # S3's limit
EQUAL_PARTS = 5_000  # some servers require equal parts: up to 78 GiB all parts are equal
DOUBLING_PARTS = 625  # after that the size doubles every so many parts, and 10,000 parts hold 4.9 TiB

Receipt = TypeVar("Receipt")


def part_bytes(index: int) -> int:
    """Returns the size of part `index`, counted from 0: small to save memory, growing so that MAX_PARTS
    suffice."""
    doublings = max(0, index - EQUAL_PARTS + DOUBLING_PARTS) // DOUBLING_PARTS
    return PART_BYTES << doublings


def cut(chunks: Iterable[Chunk]) -> Iterator[bytes]:
    """Yields the same bytes in parts of `part_bytes`; the last part is the remainder, and an empty stream
    gives no part.

    Memory holds one part and one chunk, and no reference to a part that was yielded.
    """
    index, held = 0, 0
    buffer: list[bytes] = []
    for chunk in chunks:
        rest = memoryview(chunk)
        while held + len(rest) >= part_bytes(index):
            missing = part_bytes(index) - held
            buffer.append(bytes(rest[:missing]))
            rest = rest[missing:]
            yield _joined(buffer)
            index, held = index + 1, 0
        if rest:
            buffer.append(bytes(rest))
            held += len(rest)
    if buffer:
        yield _joined(buffer)


def drained(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the parts in `first`, releasing them one by one, and then the rest."""
    while first:
        yield first.pop(0)
    yield from rest


def send(
    parts: Iterable[bytes], send_one: Callable[[int, bytes], Receipt], *, threads: int
) -> Iterator[Receipt]:
    """Yields the receipts of the parts in order, numbered from 1; at most `threads` parts are in flight.

    When one fails, the ones in flight are awaited before its error is raised.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Receipt]] = deque()
        for number, part in enumerate(parts, start=1):
            pending.append(pool.submit(send_one, number, part))
            del part  # otherwise this name would hold the part while the next one is built
            if len(pending) == threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _joined(buffer: list[bytes]) -> bytes:
    joined = b"".join(buffer)
    buffer.clear()
    return joined
