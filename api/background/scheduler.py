"""Fires schedules and decides the outcomes of their jobs. Its state is in the database, so any API process
can continue.

It is one thread beside the dispatcher's. In every round it renews its leases; then, for each schedule of its
own, it looks at the prefix if it is time, opens firings that are due, starts those whose sources answer, and
checks the gates of those whose job has ended. A failure is shown as the schedule's error, and tried again.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from api.db.models import Firing, Schedule
from api.errors import ApiError
from api.service.context import Services
from api.service.owner import is_dead, this_process
from api.service.schedules import firings, looking, moments, outcomes
from api.service.schedules import leases as schedule_leases
from api.service.schedules.present import definition_of
from api.service.schedules.request import ScheduleRequest
from api.service.stored import Unreadable
from pipeline.errors import (
    IncompleteCheckpoint,
    InvalidRequest,
    SecateurError,
    SourceNotFound,
    SourceUnreachable,
)
from pipeline.sources.pins import MODEL

log = logging.getLogger(__name__)
RETRY = timedelta(seconds=15)  # until failed work is tried again
STOP_SECONDS = 10.0  # stopping does not wait longer, for instance for a slow bucket


@dataclass
class _Memory:
    """The notes of one process on one version of a schedule. They may be lost at any time.

    `problems` are by the part of the work that failed; `not_before` is when that part is tried again.
    """

    version: datetime
    problems: dict[str, str] = field(default_factory=dict)
    not_before: dict[str, datetime] = field(default_factory=dict)
    tried: bool = False


@dataclass
class Scheduler:
    """The scheduler of one API process. `owner` is the name of this process in leases."""

    services: Services
    owner: str = field(default_factory=this_process)
    _memory: dict[str, _Memory] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop working, and let others take our schedules at once."""
        self._stopping.set()
        self.services.wake_scheduler.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
        schedule_leases.release(self.services.database, self.owner)

    def round(self) -> None:
        """Work on every schedule of this process once."""
        ours = schedule_leases.claim(self.services, self.owner)
        if not ours:
            return
        with self.services.database.read() as session:
            busy = outcomes.busy(session)
        self._memory = {schedule.id: self._recall(schedule) for schedule in ours}
        for schedule in ours:
            self._attend(schedule, busy=schedule.id in busy)
            self._show_problems(schedule)

    def _work(self) -> None:
        with contextlib.suppress(SQLAlchemyError):  # leases that are not released run out
            for owner in schedule_leases.owners(self.services.database):
                if is_dead(owner):
                    schedule_leases.release(self.services.database, owner)
        while not self._stopping.is_set():
            try:
                self.round()
            except Exception:
                log.exception("a round of the scheduler failed; the next one tries again")
            self.services.wake_scheduler.wait(self.services.settings.poll_seconds)
            self.services.wake_scheduler.clear()

    def _attend(self, schedule: Schedule, *, busy: bool) -> None:
        try:
            definition = definition_of(schedule)
        except Unreadable as error:
            self._note(schedule, "definition", error.message)
            return
        watch, now = definition.on_new_checkpoint, self.services.now()
        if not schedule.paused and watch is not None and looking.is_due(schedule, watch, now):
            self._do(schedule, "look", partial(looking.look, self.services, schedule))
            busy = True
        if moments.is_due(schedule, now):
            self._do(schedule, "cron", partial(moments.fire_due, self.services, schedule.id))
            busy = True
        parts = self._settle(schedule, definition) if busy else set()
        self._recall(schedule).problems = {
            part: problem
            for part, problem in self._recall(schedule).problems.items()
            if not part.startswith("firing ") or part in parts
        }

    def _settle(self, schedule: Schedule, definition: ScheduleRequest) -> set[str]:
        """Start waiting firings, and decide those whose job has ended. Returns the names of these parts."""
        with self.services.database.read() as session:
            waiting = () if schedule.paused else firings.waiting(session, schedule.id)
            ended = outcomes.undecided(session, schedule.id)
        work = {f"firing {one.id}": partial(self._start, schedule, definition, one) for one in waiting}
        for one in ended:
            work[f"firing {one.id}"] = partial(outcomes.decide, self.services, definition, one.id)
        for part, step in work.items():
            self._do(schedule, part, step)
        return set(work)

    def _start(self, schedule: Schedule, definition: ScheduleRequest, firing: Firing) -> None:
        """Make the job of a waiting firing. It keeps waiting while its sources do not answer."""
        services = self.services
        assert firing.source is not None, "what waits has a source"
        prepared = refusal = None
        try:
            watched = firing.digest is not None
            prepared = firings.prepare(services, definition, source=firing.source, watched=watched)
        except SourceUnreachable:
            raise
        except InvalidRequest as error:
            refusal = error
        with services.database.write() as session:
            current = firings.locked(session, schedule.id)
            fresh = session.get(Firing, firing.id)
            if current is None or current.updated_at != schedule.updated_at:
                return  # the schedule was changed meanwhile; the next round sees the change
            if fresh is None or fresh.outcome != "waiting":
                return  # another process, or a person, was faster
            if fresh.digest is not None and _is_other(fresh.digest, prepared, refusal):
                looking.forget(session, current, firing.source)
                session.delete(fresh)
                log.info("schedule %s: %s has changed; it settles again", schedule.name, firing.source)
                return
            if prepared is not None:
                overlap, now = definition.overlap, services.now()
                firings.start(session, current, fresh, prepared, overlap=overlap, now=now)
            elif refusal is not None:
                firings.close(fresh, "failed", refusal.message, now=services.now())
            outcome, job = fresh.outcome, fresh.job
        log.info("schedule %s: %s is %s %s", schedule.name, firing.source, outcome, job or "")
        if job is None:
            services.metrics.fired(outcome)
        services.wake.set()

    def _do(self, schedule: Schedule, part: str, work: Callable[[], None]) -> None:
        """Do one part of the work. An exception in it becomes the error of this schedule alone."""
        memory, now = self._recall(schedule), self.services.now()
        if now < memory.not_before.get(part, now):
            return
        problem = None
        try:
            work()
        except IntegrityError as error:  # two processes inserted the same row; the next round sees it
            log.info("schedule %s (%s): another process was faster (%s)", schedule.name, part, error.orig)
            return
        except (OperationalError, InterfaceError):
            raise  # the database is away
        except (SecateurError, ApiError) as error:
            problem = error.message
        except Exception as error:
            log.exception("schedule %s (%s)", schedule.name, part)
            problem = f"{type(error).__name__}; the log of the API has the details"
        self._note(schedule, part, problem)
        if problem is None:
            memory.not_before.pop(part, None)
        else:
            memory.not_before[part] = now + RETRY

    def _note(self, schedule: Schedule, part: str, problem: str | None) -> None:
        memory = self._recall(schedule)
        memory.tried = True
        if problem is not None and memory.problems.get(part) != problem:
            log.warning("schedule %s (%s): %s", schedule.name, part, problem)
        memory.problems.pop(part, None)
        if problem is not None:
            memory.problems[part] = problem

    def _show_problems(self, schedule: Schedule) -> None:
        """Show the problems as the schedule's error, once any part of the work was tried."""
        memory = self._recall(schedule)
        error = "; ".join(dict.fromkeys(memory.problems.values())) or None
        if memory.tried and error != schedule.error:
            schedule_leases.tell(self.services.database, schedule.id, error)

    def _recall(self, schedule: Schedule) -> _Memory:
        memory = self._memory.get(schedule.id)
        if memory is None or memory.version != schedule.updated_at:
            memory = self._memory[schedule.id] = _Memory(schedule.updated_at)
        return memory


def _is_other(digest: str, prepared: firings.Prepared | None, refusal: InvalidRequest | None) -> bool:
    """Tells whether the source now holds another checkpoint than the one that was found, or none."""
    if prepared is not None:
        return prepared.digest != digest
    gone = isinstance(refusal, IncompleteCheckpoint | SourceNotFound)
    return refusal is not None and gone and refusal.param == MODEL
