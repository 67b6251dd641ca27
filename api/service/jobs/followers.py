"""Streams of events: one task for each API process reads the new events of all jobs that anybody follows, and
hands each to its followers, however many there are.

A stream reads by itself what was there before it began, and what came while its reader was too slow.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from api.db.engine import Database
from api.db.models import EventRow, Job
from api.errors import ApiError
from api.service.jobs.journal import event_of, events_after
from pipeline.job.state import TERMINAL

log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
BATCH = 500
ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})
WAITING = 1000  # events that may wait for a slow reader before it must read them itself


Valid = Callable[[Session, Collection[str]], frozenset[str]]


@dataclass(frozen=True)
class Told:
    """An event as it is sent: its id, its type, and itself as JSON."""

    id: int
    type: str
    data: str


@dataclass
class Follower:
    """One stream. `key`: the prefix of its caller's key, None if no key is needed. `lost`: events came too
    fast for it. `refused`: the key is not valid any more."""

    job: str
    key: str | None
    queue: asyncio.Queue[Told | None] = field(default_factory=lambda: asyncio.Queue(WAITING))
    lost: bool = False
    refused: bool = False

    def tell(self, told: Told | None) -> None:
        """Hand it an event; None wakes it."""
        try:
            self.queue.put_nowait(told)
        except asyncio.QueueFull:
            self.lost = True


class Followers:
    """The streams of one API process, at most `most`. `valid` tells which keys are neither revoked nor
    expired, by their prefixes. What does not run in its loop says so."""

    def __init__(self, database: Database, *, most: int, valid: Valid) -> None:
        self._database = database
        self._valid = valid
        self._most = most
        self._by_job: dict[str, list[Follower]] = {}
        self._read: dict[str, int] = {}  # by job, the id up to which its events were handed on
        self._task: asyncio.Task[None] | None = None

    async def follow(self, job: str, *, after: int, key: str | None) -> AsyncIterator[Told]:
        """Yields the events of a job above the id `after`, until the job has ended or the key is revoked.
        Raises ApiError 429 beyond the limit of streams."""
        self.check_room()
        follower = Follower(job, key)
        self._by_job.setdefault(job, []).append(follower)
        try:
            if job not in self._read:
                latest = await run_in_threadpool(self._latest_of, job)
                self._read.setdefault(job, latest)  # another follower may have been faster
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._watch())
            while not follower.refused:
                rows, ended = await run_in_threadpool(self._stored, job, after)
                for told in rows:
                    after = told.id
                    yield told
                if ended and not rows:
                    return
                if not rows:
                    async for told in self._heard(follower, after):
                        after = told.id
                        yield told
        finally:
            self._leave(follower)

    def check_room(self) -> None:
        """Raise ApiError 429 if there are as many streams as there may be."""
        if sum(map(len, self._by_job.values())) >= self._most:
            raise ApiError(
                429,
                "too_many_streams",
                f"this process has {self._most} streams of events (SECATEUR_MAX_STREAMS); try again later, "
                f"or read pages",
            )

    async def _heard(self, follower: Follower, after: int) -> AsyncIterator[Told]:
        """The events that are handed on, until the job has ended, or the follower must read by itself."""
        while not follower.lost and not follower.refused:
            told = await follower.queue.get()
            if told is None or told.id <= after:
                continue
            yield told
            if told.type in ENDS:
                return
        follower.lost = False
        while not follower.queue.empty():
            follower.queue.get_nowait()

    def _leave(self, follower: Follower) -> None:
        others = self._by_job[follower.job]
        others.remove(follower)
        if not others:
            del self._by_job[follower.job]
            self._read.pop(follower.job, None)

    async def _watch(self) -> None:
        """Read what is new, and hand it on, as long as anybody follows."""
        while self._by_job:
            try:
                await self._round()
            except Exception:
                log.exception("the events could not be read; they are tried again")
            await asyncio.sleep(POLL_SECONDS)

    async def _round(self) -> None:
        followers = [one for those in self._by_job.values() for one in those]
        used = {one.key for one in followers if one.key is not None}
        new, valid = await run_in_threadpool(self._news, dict(self._read), used)
        for job, told in new:
            if job not in self._read:  # its last follower has left
                continue
            self._read[job] = max(self._read[job], told.id)
            for follower in self._by_job.get(job, ()):
                follower.tell(told)
        for follower in followers:
            if follower.key is not None and follower.key not in valid:
                follower.refused = True
                follower.tell(None)

    def _news(self, read: dict[str, int], used: set[str]) -> tuple[list[tuple[str, Told]], frozenset[str]]:
        """In a thread: the new events of these jobs, and those of the keys that are valid."""
        with self._database.read() as session:
            valid = self._valid(session, used)
            latest = select(EventRow.job, func.max(EventRow.id)).where(EventRow.job.in_(read))
            found = session.execute(latest.group_by(EventRow.job)).all()
            news = [
                and_(EventRow.job == job, EventRow.id > read[job]) for job, last in found if last > read[job]
            ]
            if not news:
                return [], valid
            rows = select(EventRow).where(or_(*news)).order_by(EventRow.id).limit(BATCH)
            return [(row.job, _told(row)) for row in session.scalars(rows)], valid

    def _latest_of(self, job: str) -> int:
        with self._database.read() as session:
            return session.scalar(select(func.max(EventRow.id)).where(EventRow.job == job)) or 0

    def _stored(self, job: str, after: int) -> tuple[Sequence[Told], bool]:
        """In a thread: stored events, and whether the job has ended."""
        with self._database.read() as session:  # status first: the events that led to it are stored with it
            ended = session.scalar(select(Job.status).where(Job.id == job)) in TERMINAL
            return [_told(row) for row in events_after(session, job, after=after, limit=BATCH)], ended


def _told(row: EventRow) -> Told:
    return Told(id=row.id, type=row.type, data=event_of(row).model_dump_json())
