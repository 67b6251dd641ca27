"""Hands jobs to Ray and follows them until they end. Its state is in the database, so any API process can
continue.

It is one thread. In every round it renews its leases, looks at each attempt of its own, and starts new ones
while there is room. A round that fails is logged, and the next one tries again.
"""

import contextlib
import logging
import shlex
import sys
import threading
import time
from dataclasses import dataclass, field

from api.auth import new_token, token_digest
from api.embedded import EmbeddedRay
from api.service.context import Services
from api.service.jobs import attempts
from api.service.jobs.attempts import Lease, LeaseLost, LiveAttempt
from api.service.jobs.logs import log_link, store_log
from api.service.owner import is_dead, this_process
from api.submit import RAY_ENDED, RayJob, RayRefused, RayUnavailable, Submission
from pipeline.errors import SecateurError, StorageError
from pipeline.job.events import FailureReason
from pipeline.job.ledger import JobResult, WorkOrder, job_result_key, order_key

log = logging.getLogger(__name__)
REFUSALS = 20  # a Ray that has just started refuses for some seconds
LEAVE_SECONDS = 8.0  # Ray kills a driver three seconds after it was asked to stop
LAST_WORDS = 3  # lines of Ray's message on a dead driver that the failure quotes
LINGER_SECONDS = 60.0  # a driver that has reported its failure may run this much longer


@dataclass
class _Memory:
    """The notes of one process on an attempt. They may be lost at any time."""

    refusals: int = 0
    reported_at: float | None = None
    warned: str = ""


@dataclass
class Dispatcher:
    """The dispatcher of one API process. `embedded` is the local Ray, if the service runs one."""

    services: Services
    embedded: EmbeddedRay | None = None
    _memory: dict[str, _Memory] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._lease = Lease(owner=this_process(), seconds=self.services.settings.lease_seconds)

    def start(self) -> None:
        """Begin to work in a thread."""
        self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop working. The local Ray ends too; its jobs wait for the next start and lose no try."""
        self._stopping.set()
        self.services.wake.set()
        if self.embedded is not None:
            self.embedded.give_up()
        if self._thread is not None:
            self._thread.join()
        if self.embedded is not None:
            self._stop_drivers()
            self.embedded.stop()
            self._interrupt_all()
        attempts.release(self.services.database, self._lease.owner)

    def round(self) -> None:
        """Look at every attempt of this process once, and start new ones."""
        if self.embedded is not None:
            self.embedded.ensure()
        database, limit = self.services.database, self.services.settings.running_limit
        if not attempts.anything_to_do(database):
            return
        while attempts.open_next(database, self._lease, limit=limit):
            pass
        ours = attempts.claim_live(database, self._lease)
        for live in ours:
            try:
                self._advance(live)
            except LeaseLost as lost:
                log.info("%s", lost)
            except (RayUnavailable, SecateurError) as error:
                self._warn(live, str(error))
        self._memory = {live.submission_id: self._recall(live) for live in ours}

    def _work(self) -> None:
        self._release_the_dead()
        while not self._stopping.is_set():
            try:
                self.round()
            except RayUnavailable as error:
                log.warning("%s", error)
            except Exception:
                log.exception("a round of the dispatcher failed; the next one tries again")
            self.services.wake.wait(self.services.settings.poll_seconds)
            self.services.wake.clear()

    def _stop_drivers(self) -> None:
        """Ask our drivers to end, and give them a moment, because Ray ends much faster without them."""
        asked = [
            live.submission_id
            for live in attempts.claim_live(self.services.database, self._lease)
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
        for live in attempts.claim_live(self.services.database, self._lease):
            if live.submitted and self._result(live) is None:
                attempts.interrupt(self.services.database, self._lease, live)

    def _release_the_dead(self) -> None:
        """Release the leases of API processes on this machine that were killed, before they run out."""
        for owner in attempts.lease_owners(self.services.database):
            if is_dead(owner):
                attempts.release(self.services.database, owner)

    def _advance(self, live: LiveAttempt) -> None:
        """Advance an attempt by one step. If Ray or the storage is away, the next round does it."""
        ray_job = self.services.ray.find(live.submission_id)
        if not live.submitted:
            self._hand_over(live, ray_job)
        elif ray_job is None:
            self._ended(live, None)
        elif ray_job.status in RAY_ENDED:
            self._ended(live, ray_job)
        elif live.cancelling or self._lingers(live):
            self.services.ray.stop(live.submission_id)

    def _hand_over(self, live: LiveAttempt, ray_job: RayJob | None) -> None:
        """Submit an attempt, unless Ray has it already because an API was killed before it noted that."""
        database = self.services.database
        if ray_job is None and live.cancelling:
            attempts.cancelled(database, self._lease, live)
            return
        if ray_job is None:
            token = new_token()
            attempts.set_token(database, self._lease, live, digest=token_digest(token))
            order = WorkOrder(
                job=live.job,
                attempt=live.number,
                request=live.request,
                pins=live.pins,
                report_to=self.services.settings.public_url,
                token=token,
                reproduces=live.reproduces,
            )
            self.services.content.put_model(order_key(live.job, live.number), order)
            try:
                self.services.ray.submit(self._submission(live))
            except RayRefused as refusal:
                memory = self._recall(live)
                memory.refusals += 1
                if memory.refusals < REFUSALS:
                    raise
                reason = FailureReason(code="submission_refused", message=str(refusal), blame="machine")
                self._failed(live, reason)
                return
        attempts.mark_submitted(database, self._lease, live)
        log.info("%s is with Ray", live.submission_id)

    def _ended(self, live: LiveAttempt, ray_job: RayJob | None) -> None:
        """Settle an attempt whose Ray job has ended: it succeeded, was cancelled or failed."""
        if ray_job is not None:
            self._keep_log(live)
        result = self._result(live)
        if result is not None and not (
            live.cancelling and (ray_job is None or ray_job.status != "SUCCEEDED")
        ):
            attempts.succeed(self.services.database, self._lease, live, result)
            self.services.metrics.attempt_ended("succeeded")
            log.info("%s has succeeded", live.job)
        elif live.cancelling:
            attempts.cancelled(self.services.database, self._lease, live)
            self.services.metrics.attempt_ended("cancelled")
            log.info("%s is cancelled", live.job)
        else:
            self._failed(live, live.reported or _reason_from_ray(live, ray_job))

    def _failed(self, live: LiveAttempt, reason: FailureReason) -> None:
        reason = reason.model_copy(update={"log": reason.log or log_link(live.job, live.number)})
        limit = self.services.settings.max_attempts
        again = attempts.fail(self.services.database, self._lease, live, reason, limit=limit)
        self.services.metrics.attempt_ended("failed")
        log.warning(
            "%s has failed (%s: %s); %s",
            *(live.submission_id, reason.code, reason.message),
            "it will be tried again" if again else "that was the last attempt",
        )

    def _result(self, live: LiveAttempt) -> JobResult | None:
        try:
            return self.services.content.find_model(job_result_key(live.job), JobResult)
        except StorageError as error:
            if error.code == "corrupt_object":
                log.error("%s", error)
                return None
            raise

    def _keep_log(self, live: LiveAttempt) -> None:
        try:
            store_log(self.services, live)
        except (RayUnavailable, SecateurError) as error:
            log.warning("the log of %s could not be kept: %s", live.submission_id, error)

    def _submission(self, live: LiveAttempt) -> Submission:
        settings = self.services.settings
        python = settings.driver_python or (sys.executable if settings.embedded else "python")
        command = [python, "-m", settings.driver_module, "--job", live.job, "--attempt", str(live.number)]
        request = live.request
        metadata = {
            "name": request.name or live.job,
            "job": live.job,
            "attempt": str(live.number),
            "model": request.spec.model.source,
            "api": f"{settings.public_url}/jobs/{live.job}",
            **{f"label:{key}": value for key, value in request.labels.items()},
        }
        return Submission(
            submission_id=live.submission_id,
            entrypoint=shlex.join(command),
            environment=settings.driver_environment(),
            metadata=metadata,
        )

    def _lingers(self, live: LiveAttempt) -> bool:
        """Tells whether a driver reported long ago that it failed, and still runs."""
        if live.reported is None:
            return False
        memory = self._recall(live)
        memory.reported_at = memory.reported_at or time.monotonic()
        return time.monotonic() - memory.reported_at > LINGER_SECONDS

    def _warn(self, live: LiveAttempt, text: str) -> None:
        """Log a problem once, and not in every round while it lasts."""
        memory = self._recall(live)
        if memory.warned != text:
            log.warning("%s: %s", live.submission_id, text)
        memory.warned = text

    def _recall(self, live: LiveAttempt) -> _Memory:
        return self._memory.setdefault(live.submission_id, _Memory())


def _reason_from_ray(live: LiveAttempt, ray_job: RayJob | None) -> FailureReason:
    if ray_job is None:
        return FailureReason(
            code="submission_lost",
            message=f"Ray does not know {live.submission_id} any more: its head was restarted",
            blame="machine",
        )
    if ray_job.status == "SUCCEEDED":
        return FailureReason(
            code="result_missing",
            message="the driver ended well, but stored no result",
            blame="machine",
        )
    code = "" if ray_job.exit_code is None else f" with exit code {ray_job.exit_code}"
    said = " / ".join((ray_job.message or "").strip().splitlines()[-LAST_WORDS:])[-1000:]
    return FailureReason(
        code="driver_died",
        message=f"the driver ended{code} before it could say why" + (f"; last words: {said}" if said else ""),
        blame="machine",
    )
