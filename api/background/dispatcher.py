"""Hands jobs to Ray and follows them until they end. Its state is in the database, so any API process can
continue.

It is one thread, and another that renews its leases, however long Ray takes to answer. In every round it asks
Ray once for the states of its attempts, looks at each, and starts new ones while there is room. A round is
short: those that it did not reach come first in the next one, and attempts that shall be cancelled before all
others. A round that fails is logged, and the next one tries again.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from api.background.following import Follower
from api.embedded import EmbeddedRay
from api.service.context import Services
from api.service.jobs import attempts, leases
from api.service.jobs.leases import Lease, LeaseLost, LiveAttempt
from api.service.owner import is_dead, this_process
from api.service.stored import Unreadable
from api.submit import RAY_ENDED, RayJob, RayUnavailable
from pipeline.errors import SecateurError

log = logging.getLogger(__name__)
LEAVE_SECONDS = 8.0  # Ray kills a driver three seconds after it was asked to stop
ROUND_SECONDS = 5.0
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass
class Dispatcher:
    """The dispatcher of one API process. `embedded` is the local Ray, if the service runs one. `owner`: the
    name of this process in leases. `clock` measures the length of rounds, in seconds."""

    services: Services
    embedded: EmbeddedRay | None = None
    owner: str = field(default_factory=this_process)
    clock: Callable[[], float] = time.monotonic
    _unread: dict[str, Unreadable] = field(default_factory=dict)  # jobs that another version must take
    _stopping: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lease = Lease(owner=self.owner, seconds=self.services.settings.lease_seconds)
        self._follower = Follower(self.services, self._lease, since=self.services.now())

    def start(self) -> None:
        """Begin to work in threads."""
        for name, work in (("dispatcher", self._work), ("leases", self._renew)):
            thread = threading.Thread(target=work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop working. The local Ray ends too; its jobs wait for the next start and lose no try."""
        self._stopping.set()
        self.services.wake.set()
        if self.embedded is not None:
            self.embedded.give_up()
        for thread in self._threads:
            thread.join()
        if self.embedded is not None:
            self._stop_drivers()
            self.embedded.stop()
            self._interrupt_all()
        leases.release(self.services.database, self._lease.owner)

    def round(self) -> None:
        """Look at the attempts of this process, and start new ones."""
        if self.embedded is not None:
            self.embedded.ensure()
        database = self.services.database
        if not leases.anything_to_do(database):
            return
        self._open()
        ours = leases.claim_live(database, self._lease, leave=self._unread)
        self._follower.forget_all_but(ours)
        try:
            states = self.services.ray.found([live.submission_id for live in ours])
        except RayUnavailable as error:
            for live in ours:
                self._follower.warn(live, str(error))
            return
        ends = self.clock() + ROUND_SECONDS
        for live in sorted(ours, key=self._turn):
            self._attend(live, states)
            if self.clock() > ends:
                self.services.wake.set()  # the next round goes on at once
                break

    def renew(self) -> None:
        """Renew the leases of this process."""
        leases.renew(self.services.database, self._lease)

    def _open(self) -> None:
        database, limit, before = (
            self.services.database,
            self.services.settings.running_limit,
            set(self._unread),
        )
        while leases.open_next(database, self._lease, limit=limit, unread=self._unread):
            pass
        for job in self._unread.keys() - before:
            log.warning("%s is not started: %s", job, self._unread[job].message)

    def _turn(self, live: LiveAttempt) -> tuple[bool, datetime]:
        return not live.cancelling, self._follower.recall(live).attended or LONG_AGO

    def _attend(self, live: LiveAttempt, states: Mapping[str, RayJob]) -> None:
        try:
            self._follower.advance(live, states.get(live.submission_id))
        except LeaseLost as lost:
            log.info("%s", lost)
        except Unreadable as error:
            self._unread[live.job] = error
            leases.pass_on(self.services.database, self._lease, live)
            log.warning("%s is left to another process: %s", live.submission_id, error.message)
        except (RayUnavailable, SecateurError) as error:
            self._follower.warn(live, str(error))

    def _work(self) -> None:
        self._release_the_dead()
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self.round()
                self.services.metrics.round_took(time.monotonic() - began)
            except RayUnavailable as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a round of the dispatcher failed; the next one tries again")
            self.services.wake.wait(self.services.settings.poll_seconds)
            self.services.wake.clear()

    def _renew(self) -> None:
        while not self._stopping.wait(self._lease.seconds / 3):
            try:
                self.renew()
            except Exception:
                log.exception("the leases could not be renewed; they are tried again")

    def _stop_drivers(self) -> None:
        """Ask our drivers to end, and give them a moment, because Ray ends much faster without them."""
        asked = [
            live.submission_id
            for live in leases.claim_live(self.services.database, self._lease)
            if live.submitted
        ]
        deadline = time.monotonic() + LEAVE_SECONDS
        with contextlib.suppress(RayUnavailable):
            for submission_id in asked:
                self.services.ray.stop(submission_id)
            while time.monotonic() < deadline and any(self._runs(submission_id) for submission_id in asked):
                time.sleep(0.2)

    def _runs(self, submission_id: str) -> bool:
        ray_job = self.services.ray.find(submission_id)
        return ray_job is not None and ray_job.status not in RAY_ENDED

    def _interrupt_all(self) -> None:
        for live in leases.claim_live(self.services.database, self._lease):
            if live.submitted and self._follower.result(live) is None:
                attempts.interrupt(self.services.database, self._lease, live)

    def _release_the_dead(self) -> None:
        """Release the leases of API processes on this machine that were killed, before they run out."""
        for owner in leases.lease_owners(self.services.database):
            if is_dead(owner):
                leases.release(self.services.database, owner)
