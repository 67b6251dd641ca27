"""Cut a stream of unknown length into the parts of a multipart upload, and send these in bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

PART_BYTES = 16 * 1024 * 1024
MAX_PARTS = 10_000  # S3's limit
EQUAL_PARTS = 5_000  # some servers want equal parts: up to 78 GiB they are
DOUBLING_PARTS = 625  # after that the size doubles this often, and 10,000 parts hold 4.9 TiB

Receipt = TypeVar("Receipt")


def part_bytes(index: int) -> int:
    """Size of part `index`, counted from 0: as small as memory likes, growing so that the parts suffice."""
    doublings = max(0, index - EQUAL_PARTS + DOUBLING_PARTS) // DOUBLING_PARTS
    return PART_BYTES << doublings


def cut(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in parts of `part_bytes`; the last one is what remains, and nothing gives no part.

    Holds one part and one chunk, and keeps no reference to a part that it has handed out.
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
    """The parts in `first`, let go one by one, and then the rest."""
    while first:
        yield first.pop(0)
    yield from rest


def send(
    parts: Iterable[bytes], send_one: Callable[[int, bytes], Receipt], *, threads: int
) -> Iterator[Receipt]:
    """Receipts of the parts in order, numbered from 1; at most `threads` parts are in flight.

    When one fails, the ones in flight are waited for before its error goes on.
    """
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[Receipt]] = deque()
        for number, part in enumerate(parts, start=1):
            pending.append(pool.submit(send_one, number, part))
            del part  # the next one is built while this name would hold it
            if len(pending) == threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _joined(buffer: list[bytes]) -> bytes:
    joined = b"".join(buffer)
    buffer.clear()
    return joined
