"""Reads a body to its end over connections that break: each one continues at the byte after the last."""

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from pipeline.errors import CorruptObject, StorageUnavailable

ATTEMPTS = 5  # consecutive attempts without a single byte
BACKOFF_SECONDS = 0.2  # doubles with every attempt, with jitter


class BrokenBody(Exception):
    """A body stopped before its end; `short` if the connection was closed properly, as for a truncated
    object."""

    def __init__(self, reason: str, *, short: bool) -> None:
        super().__init__(reason)
        self.short = short


@dataclass(frozen=True)
class Body:
    """One opened body: its bytes (a generator that raises BrokenBody), the position of their end, and its
    version."""

    chunks: Generator[bytes, None, None]
    end: int
    version: str


def read_resuming(
    open_at: Callable[[int, Body | None], Body], *, start: int, what: str, attempts: int = ATTEMPTS
) -> Iterator[bytes]:
    """Yields the bytes from `start` to the end of the first body.

    `open_at(position, previous)` opens the same version again at a later byte. Raises CorruptObject when the
    body is repeatedly short, StorageUnavailable when it repeatedly breaks.
    """
    position, stalled = start, 0
    body: Body | None = None
    while body is None or position < body.end:
        before = position
        body = open_at(position, body)
        try:
            with contextlib.closing(body.chunks) as chunks:
                for chunk in chunks:
                    position += len(chunk)
                    yield chunk
        except BrokenBody as broken:
            stalled = stalled + 1 if position == before else 0
            if stalled >= attempts:
                kind = CorruptObject if broken.short else StorageUnavailable
                raise kind(
                    f"{what} stopped {stalled} times at byte {position} of {body.end}: {broken}"
                ) from broken
            time.sleep(BACKOFF_SECONDS * 2**stalled * random.uniform(0.5, 1))
