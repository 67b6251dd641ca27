"""SecateurClient is the API in Python; the CLI uses it too.

    with SecateurClient("http://127.0.0.1:8080", api_key="sec_...") as secateur:
        job = secateur.submit({"spec": {...}})
        for event in secateur.follow(job.id):
            ...

Answers may have unknown fields, because a newer service may add some.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import httpx
from httpx_sse import EventSource

from api.client.connection import (
    AWAY,
    DEFAULT_URL,
    ClientError,
    Params,
    ServiceAwayError,
    paged,
    parsed,
    safe,
)
from api.client.keys import KeyCalls
from api.client.schedules import ScheduleCalls
from api.service.jobs.views import ArtifactList, ComparisonView, FileView, JobList, JobView, PlanView
from pipeline.job.events import EVENT_TYPES, Event
from pipeline.job.state import TERMINAL, Status
from pipeline.report.data import ReportDocument
from pipeline.report.sweep import SweepDocument
from pipeline.request.prune_spec import JobRequest

__all__ = ["DEFAULT_URL", "ClientError", "SecateurClient", "ServiceAwayError"]

SILENCE_SECONDS = 60.0  # the service sends at least a keep-alive every 15 s
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 5.0
GIVE_UP_SECONDS = 900.0
ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})


class SecateurClient(ScheduleCalls, KeyCalls):
    """The client of one service. Only one thread at a time may use it."""

    def submit(
        self, request: JobRequest | Mapping[str, object], *, idempotency_key: str | None = None
    ) -> JobView:
        """POST /jobs. A repeat with the same key and body returns the same job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
        return self._fetch("POST", "/jobs", JobView, json=request, headers=headers)

    def plan(self, request: JobRequest | Mapping[str, object]) -> PlanView:
        """POST /plans: the stages that would run, and those that are cached."""
        return self._fetch("POST", "/plans", PlanView, json=request)

    def jobs(
        self,
        *,
        status: Status | None = None,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        created_after: int | None = None,
        created_before: int | None = None,
        page: int = 100,
    ) -> Iterator[JobView]:
        """All jobs that match, newest first. Pages are fetched as the iterator needs them."""
        given: Params = {
            "status": status,
            "label": [f"{key}:{value}" for key, value in (labels or {}).items()],
            "model": model,
            "created_after": created_after,
            "created_before": created_before,
            "limit": page,
        }
        return paged(lambda params: self._fetch("GET", "/jobs", JobList, params=params), given)

    def job(self, job_id: str) -> JobView:
        """GET /jobs/{id}."""
        return self._fetch("GET", f"/jobs/{safe(job_id)}", JobView)

    def cancel(self, job_id: str) -> JobView:
        """POST /jobs/{id}/cancel."""
        return self._fetch("POST", f"/jobs/{safe(job_id)}/cancel", JobView)

    def retry(self, job_id: str) -> JobView:
        """POST /jobs/{id}/retry."""
        return self._fetch("POST", f"/jobs/{safe(job_id)}/retry", JobView)

    def reproduce(self, job_id: str) -> JobView:
        """POST /jobs/{id}/reproduce."""
        return self._fetch("POST", f"/jobs/{safe(job_id)}/reproduce", JobView)

    def follow(
        self, job_id: str, *, after: int = 0, away: Callable[[str | None], None] = lambda why: None
    ) -> Iterator[Event]:
        """Yields the events after id `after`, and new ones until the job has ended.

        If the service goes away meanwhile, the client waits for it, and no event is lost or repeated. `away`
        is called with the reason, and with None when the service is back. Raises ServiceAwayError when it
        does not answer at the start, or for a quarter of an hour.
        """
        self.job(job_id)
        pause = FIRST_PAUSE_SECONDS
        away_since: float | None = None
        last_type = ""
        while True:
            got = False
            try:
                for event in self._stream(job_id, after=after):
                    if away_since is not None:
                        away(None)
                    pause, away_since, got = FIRST_PAUSE_SECONDS, None, True
                    if event.id > after:
                        after, last_type = event.id, event.body.type
                        yield event
                # A stream ends with its job, or when the service stops; the job's status tells them apart.
                if (not got or last_type in ENDS) and self.job(job_id).status in TERMINAL:
                    return
            except (httpx.TransportError, ClientError) as error:
                if isinstance(error, ClientError) and error.status not in AWAY:
                    raise
                why = str(error) or type(error).__name__
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > GIVE_UP_SECONDS:
                    raise ServiceAwayError(self.url, why) from error
                away(why)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)

    def wait(self, job_id: str) -> JobView:
        """Waits until the job has ended, and returns it."""
        for _ in self.follow(job_id):
            pass
        return self.job(job_id)

    def logs(self, job_id: str, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """Yields the output of the driver, piece by piece."""
        params: dict[str, str | int] = {"follow": "true"} if follow else {}
        if attempt is not None:
            params["attempt"] = attempt
        path = f"/jobs/{safe(job_id)}/logs"
        timeout = httpx.Timeout(60, read=None) if follow else None
        try:
            with self._http.stream(
                "GET", path, params=params, timeout=timeout or self._http.timeout
            ) as answer:
                self._refused(answer)
                yield from answer.iter_text()
        except httpx.TransportError as error:
            raise ServiceAwayError(self.url, str(error) or type(error).__name__) from error

    def report(self, job_id: str) -> ReportDocument:
        """The figures of a report. For a sweep, use `sweep_report`."""
        return parsed(self.report_json(job_id), ReportDocument)

    def sweep_report(self, job_id: str) -> SweepDocument:
        """The figures of a sweep's report."""
        return parsed(self.report_json(job_id), SweepDocument)

    def report_json(self, job_id: str) -> bytes:
        """The figures of a report, as stored JSON."""
        return self._call("GET", f"/jobs/{safe(job_id)}/report", params={"format": "json"}).content

    def report_html(self, job_id: str) -> bytes:
        """The page of a report."""
        return self._call("GET", f"/jobs/{safe(job_id)}/report", params={"format": "html"}).content

    def artifacts(self, job_id: str) -> ArtifactList:
        """GET /jobs/{id}/artifacts."""
        return self._fetch("GET", f"/jobs/{safe(job_id)}/artifacts", ArtifactList)

    def file(self, file: FileView) -> Iterator[bytes]:
        """The content of one file of an artifact, after redirects and without verification."""
        try:
            with self._http.stream("GET", file.url, follow_redirects=True) as answer:
                self._refused(answer)
                yield from answer.iter_raw()
        except httpx.TransportError as error:
            raise ServiceAwayError(self.url, str(error) or type(error).__name__) from error

    def compare(self, job_ids: Sequence[str]) -> ComparisonView:
        """GET /compare: the figures of finished jobs side by side, with paired differences to the first."""
        return self._fetch("GET", "/compare", ComparisonView, params={"job": list(job_ids)})

    def ping(self) -> None:
        """Raise ServiceAwayError unless the service answers."""
        self._call("GET", "/healthz")

    def _stream(self, job_id: str, *, after: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        path = f"/jobs/{safe(job_id)}/events"
        timeout = httpx.Timeout(10, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
            self._refused(answer)
            for message in EventSource(answer).iter_sse():
                # A keep-alive is a message without data; a newer service may send types that we do not know.
                if message.data and message.event in EVENT_TYPES:
                    yield parsed(message.data, Event)
