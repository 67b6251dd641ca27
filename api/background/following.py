"""Follows one attempt: hands it to Ray, stops it, and settles it when it has ended.

Ray's moods cost a job nothing: an attempt that Ray does not take now waits, with growing pauses, and the job
says so. Only a request that Ray understood and refused counts as a failed try.
"""

import logging
import shlex
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from api.auth import new_token, token_digest
from api.service.context import Services
from api.service.jobs import attempts, leases
from api.service.jobs.leases import Lease, LiveAttempt
from api.service.jobs.logs import log_link, store_log
from api.submit import RAY_ENDED, RayJob, RayRefused, RayUnavailable, Submission
from pipeline.errors import SecateurError, StorageError
from pipeline.job.events import FailureReason, Message
from pipeline.job.ledger import JobResult, WorkOrder, job_result_key, order_key
from pipeline.request.prune_spec import JobRequest

log = logging.getLogger(__name__)
LAST_WORDS = 3  # lines of Ray's message on a dead driver that the failure quotes
LINGER = timedelta(seconds=60)  # a driver that has reported its failure may run this much longer
LONGEST_PAUSE = 60.0  # seconds between two submissions of what Ray does not take


@dataclass
class Memory:
    """The notes of one process on an attempt. They may be lost at any time.

    `refusals`: how often Ray has not taken it, and `not_before` when it is asked again. `attended`: when the
    attempt was looked at last. `stopped_for`: why we end it, if we do.
    """

    refusals: int = 0
    not_before: datetime | None = None
    attended: datetime | None = None
    reported_at: datetime | None = None
    stopped_for: FailureReason | None = None
    warned: str = ""
    told: set[str] = field(default_factory=set)


@dataclass
class Follower:
    """Advances attempts. `lease` is that of this process; `since` is when it began to listen to drivers."""

    services: Services
    lease: Lease
    since: datetime
    _memory: dict[str, Memory] = field(default_factory=dict)

    def recall(self, live: LiveAttempt) -> Memory:
        """The notes on an attempt."""
        return self._memory.setdefault(live.submission_id, Memory())

    def forget_all_but(self, ours: list[LiveAttempt]) -> None:
        """Keep the notes on these attempts alone."""
        self._memory = {live.submission_id: self.recall(live) for live in ours}

    def advance(self, live: LiveAttempt, ray_job: RayJob | None) -> None:
        """Advance an attempt by one step. If Ray or the storage is away, the next round does it."""
        self.recall(live).attended = self.services.now()
        if not live.submitted:
            self._hand_over(live, ray_job)
        elif ray_job is None:
            if self.services.ray.find(live.submission_id) is None:  # a list may be older than the submission
                self._ended(live, None)
        elif ray_job.status in RAY_ENDED:
            self._ended(live, ray_job)
        elif live.cancelling or self._lingers(live) or self._is_over(live):
            self.services.ray.stop(live.submission_id)

    def warn(self, live: LiveAttempt, text: str) -> None:
        """Log a problem once, and not in every round while it lasts."""
        memory = self.recall(live)
        if memory.warned != text:
            log.warning("%s: %s", live.submission_id, text)
        memory.warned = text

    def result(self, live: LiveAttempt) -> JobResult | None:
        """The stored result of the job, if there is one."""
        try:
            return self.services.content.find_model(job_result_key(live.job), JobResult)
        except StorageError as error:
            if error.code == "corrupt_object":
                log.error("%s", error)
                return None
            raise

    def _hand_over(self, live: LiveAttempt, ray_job: RayJob | None) -> None:
        """Submit an attempt, unless Ray has it already because an API was killed before it noted that."""
        database, memory, now = self.services.database, self.recall(live), self.services.now()
        if ray_job is None and live.cancelling:
            attempts.cancelled(database, self.lease, live)
            return
        if memory.not_before is not None and now < memory.not_before:
            return
        if ray_job is None:
            request = self._order(live)
            try:
                self.services.ray.submit(self._submission(live, request))
            except RayRefused as refusal:
                if refusal.final:
                    reason = FailureReason(code="submission_refused", message=str(refusal), blame="machine")
                    self._failed(live, reason)
                    return
                self._wait_for_ray(live, refusal)
                raise
            except RayUnavailable as error:
                self._wait_for_ray(live, error)
                raise
        attempts.mark_submitted(database, self.lease, live)
        log.info("%s is with Ray", live.submission_id)

    def _order(self, live: LiveAttempt) -> JobRequest:
        """Put the driver's order into storage, with a token of its own."""
        asked = leases.request_of(self.services.database, live)
        token = new_token()
        attempts.set_token(self.services.database, self.lease, live, digest=token_digest(token))
        order = WorkOrder(
            job=live.job,
            attempt=live.number,
            request=asked.request,
            pins=asked.pins,
            report_to=self.services.settings.public_url,
            token=token,
            reproduces=asked.reproduces,
        )
        self.services.content.put_model(order_key(live.job, live.number), order)
        return asked.request

    def _wait_for_ray(self, live: LiveAttempt, error: RayUnavailable) -> None:
        """Ask Ray again after a pause, and tell the user once."""
        memory = self.recall(live)
        memory.refusals += 1
        pause = min(2.0 ** (memory.refusals - 1), LONGEST_PAUSE)
        memory.not_before = self.services.now() + timedelta(seconds=pause)
        kind = type(error).__name__
        if kind not in memory.told:
            memory.told.add(kind)
            text = f"Ray does not take the job now, and is asked again until it does; no try is lost: {error}"
            attempts.tell(self.services.database, self.lease, live, Message(level="warning", text=text))

    def _ended(self, live: LiveAttempt, ray_job: RayJob | None) -> None:
        """Settle an attempt whose Ray job has ended: it succeeded, was cancelled or failed."""
        if ray_job is not None:
            self._keep_log(live)
        result = self.result(live)
        if result is not None and not (
            live.cancelling and (ray_job is None or ray_job.status != "SUCCEEDED")
        ):
            attempts.succeed(self.services.database, self.lease, live, result)
            self.services.metrics.attempt_ended("succeeded")
            log.info("%s has succeeded", live.job)
        elif live.cancelling:
            attempts.cancelled(self.services.database, self.lease, live)
            self.services.metrics.attempt_ended("cancelled")
            log.info("%s is cancelled", live.job)
        else:
            stopped_for = self.recall(live).stopped_for
            self._failed(live, stopped_for or live.reported or _reason_from_ray(live, ray_job))

    def _failed(self, live: LiveAttempt, reason: FailureReason) -> None:
        reason = reason.model_copy(update={"log": reason.log or log_link(live.job, live.number)})
        limit = self.services.settings.max_attempts
        again = attempts.fail(self.services.database, self.lease, live, reason, limit=limit)
        self.services.metrics.attempt_ended("failed")
        log.warning(
            "%s has failed (%s: %s); %s",
            *(live.submission_id, reason.code, reason.message),
            "it will be tried again" if again else "that was the last attempt",
        )

    def _keep_log(self, live: LiveAttempt) -> None:
        try:
            store_log(self.services, live)
        except (RayUnavailable, SecateurError) as error:
            log.warning("the log of %s could not be kept: %s", live.submission_id, error)

    def _submission(self, live: LiveAttempt, request: JobRequest) -> Submission:
        settings = self.services.settings
        python = settings.driver_python or (sys.executable if settings.embedded else "python")
        command = [python, "-m", settings.driver_module, "--job", live.job, "--attempt", str(live.number)]
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
        memory, now = self.recall(live), self.services.now()
        memory.reported_at = memory.reported_at or now
        return now - memory.reported_at > LINGER

    def _is_over(self, live: LiveAttempt) -> bool:
        """Tells whether we end an attempt: its job has used up its time, or its driver is silent."""
        memory = self.recall(live)
        memory.stopped_for = memory.stopped_for or self._why_stop(live)
        if memory.stopped_for is not None:
            self.warn(live, f"{memory.stopped_for.message}; it is stopped")
        return memory.stopped_for is not None

    def _why_stop(self, live: LiveAttempt) -> FailureReason | None:
        now = self.services.now()
        if live.deadline is not None and now > live.deadline:
            return FailureReason(
                code="max_runtime",
                message="the job has run longer than its max_runtime_hours",
                param="max_runtime_hours",
                retryable=False,
                blame="user",
            )
        silence = timedelta(seconds=self.services.settings.driver_silence_seconds)
        if live.heard_at is not None and now - max(live.heard_at, self.since) > silence:
            return FailureReason(
                code="driver_silent",
                message=f"the driver has sent no heartbeat for {silence.total_seconds():.0f} s "
                f"(SECATEUR_DRIVER_SILENCE_SECONDS), though Ray says that it runs",
                blame="machine",
            )
        return None


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
