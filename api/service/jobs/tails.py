"""Follows the output of drivers. One task reads the output of an attempt, however many follow it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool

from api.errors import ApiError
from api.service.context import Services
from api.service.jobs.jobs import find
from api.service.jobs.logs import Look, attempt_row, look

FOLLOW_SECONDS = 1.0
KEPT_BYTES = 8 * 1024 * 1024  # of an output; one who begins to follow later gets its end
MOST = 64  # attempts that are followed at a time; Ray sends all of an output for each look


@dataclass(frozen=True)
class Place:
    """The attempt that is read; `number` is None for the first one, which may not have begun. `alone`: those
    who follow it do not wait for the attempt after it."""

    job: str
    number: int | None
    alone: bool

    def is_read(self, found: Look) -> bool:
        """Tells whether nothing more will come here."""
        return found.over and (self.alone or found.job_over or found.next is not None)


@dataclass
class _Tail:
    """The output of one attempt. `start`: the number of bytes at its beginning that are not kept."""

    found: Look | None = None
    start: int = 0
    readers: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Tails:
    """The outputs that one API process follows."""

    def __init__(self) -> None:
        self._by_place: dict[Place, _Tail] = {}

    async def follow(self, services: Services, job: str, *, attempt: int | None) -> AsyncIterator[bytes]:
        """Yields the output of an attempt until it has ended. If no attempt is named, follows one attempt
        after the other until the job has ended."""
        number = attempt
        while True:
            last = None
            async for piece, found in self._read(services, Place(job, number, alone=attempt is not None)):
                last = found
                if piece:
                    yield piece
            assert last is not None, "each tail is looked at once"
            if last.next is None or attempt is not None:
                return
            number = last.next
            yield f"\n--- attempt {number} ---\n".encode()

    def check(self, services: Services, job: str, *, attempt: int | None) -> None:
        """Raises ApiError 404 for what does not exist, and 429 if too many attempts are followed."""
        find(services, job)
        attempt_row(services, job, attempt)
        place = Place(job, attempt, alone=attempt is not None)
        if place not in self._by_place and len(self._by_place) >= MOST:
            raise ApiError(
                429,
                "too_many_logs",
                f"{MOST} logs are followed already; ask again without follow, or later",
            )

    async def _read(self, services: Services, place: Place) -> AsyncIterator[tuple[bytes, Look]]:
        tail = self._by_place.setdefault(place, _Tail())
        tail.readers += 1
        sent = 0
        try:
            if tail.task is None:
                tail.task = asyncio.create_task(_watch(services, place, tail))
            while True:
                news = tail.news
                found = tail.found
                if found is not None:
                    if sent < tail.start:
                        yield f"[{tail.start - sent} bytes before this are left out]\n".encode(), found
                        sent = tail.start
                    end = tail.start + len(found.output)
                    yield found.output[sent - tail.start :], found
                    sent = max(sent, end)
                    if place.is_read(found):
                        return
                if tail.task.done():
                    tail.task.result()  # raises what ended it
                await news.wait()
        finally:
            tail.readers -= 1
            if tail.readers == 0:
                self._by_place.pop(place, None)
                if tail.task is not None:
                    tail.task.cancel()


async def _watch(services: Services, place: Place, tail: _Tail) -> None:
    """Look again and again, until the attempt has ended."""
    try:
        while True:
            found = await run_in_threadpool(look, services, place.job, place.number)
            output, before = found.output, tail.start + len(tail.found.output if tail.found else b"")
            if not output and before:  # Ray does not answer: what was read stays
                output = tail.found.output if tail.found else b""
            elif len(output) > KEPT_BYTES:
                tail.start = len(output) - KEPT_BYTES
                output = output[tail.start :]
            else:
                tail.start = 0
            tail.found = Look(output=output, over=found.over, next=found.next, job_over=found.job_over)
            tail.news.set()
            tail.news = asyncio.Event()
            if place.is_read(found):
                return
            await asyncio.sleep(FOLLOW_SECONDS)
    finally:
        tail.news.set()
