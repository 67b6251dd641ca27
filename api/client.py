"""SecateurClient: the API from Python, and what the CLI is made of.

    with SecateurClient("http://127.0.0.1:8080") as secateur:
        job = secateur.submit({"spec": {...}})
        for event in secateur.follow(job.id):
            ...

Answers are read leniently: a field that a newer service adds is no error.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api.service.views import ArtifactList, FileView, JobList, JobView, PlanView
from api.sse import messages
from pipeline.events import Event
from pipeline.job import TERMINAL, Status
from pipeline.report import ReportDocument
from pipeline.spec import JobRequest

DEFAULT_URL = "http://127.0.0.1:8080"
SILENCE_SECONDS = 60.0  # the service says something every 15 s
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
GIVE_UP_SECONDS = 900.0
AWAY = frozenset({502, 503, 504})
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
ENDS = frozenset({"job.succeeded", "job.failed", "job.cancelled"})

Model = TypeVar("Model", bound=BaseModel)


class ClientError(Exception):
    """The service refused. `code` is stable; `param` is the field to change, if there is one."""

    def __init__(
        self, message: str, *, code: str, param: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status = status


class ServiceAwayError(ClientError):
    """Nobody answers at the URL."""

    def __init__(self, url: str, why: str) -> None:
        super().__init__(
            f"no Secateur answers at {url}: {why}; start one with `secateur serve`, or give another --url",
            code="unreachable",
            status=503,
        )


class SecateurClient:
    """One service. `transport` replaces the network (tests); safe to use from one thread at a time."""

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout: float = 60, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        try:
            host = httpx.URL(self.url).host
            self._http = httpx.Client(
                base_url=self.url,
                timeout=timeout,
                transport=transport,
                trust_env=host not in LOOPBACK,  # a proxy cannot reach this machine's own services
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceAwayError(url, f"this is no URL ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def submit(
        self, request: JobRequest | Mapping[str, object], *, idempotency_key: str | None = None
    ) -> JobView:
        """POST /jobs. A repeat with the same key and body gives the same job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else {}
        return _read(self._call("POST", "/jobs", json=_plain(request), headers=headers), JobView)

    def plan(self, request: JobRequest | Mapping[str, object]) -> PlanView:
        """POST /plans: what would run, and what is cached."""
        return _read(self._call("POST", "/plans", json=_plain(request)), PlanView)

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
        """All jobs that match, newest first, fetched page by page as they are asked for."""
        given: dict[str, str | int | Sequence[str] | None] = {
            "status": status,
            "label": [f"{key}:{value}" for key, value in (labels or {}).items()],
            "model": model,
            "created_after": created_after,
            "created_before": created_before,
            "limit": page,
        }
        params = {name: value for name, value in given.items() if value not in (None, [])}
        while True:
            found = _read(self._call("GET", "/jobs", params=params), JobList)
            yield from found.data
            if not found.has_more or found.next is None:
                return
            params["after"] = found.next

    def job(self, job_id: str) -> JobView:
        """GET /jobs/{id}."""
        return _read(self._call("GET", f"/jobs/{_safe(job_id)}"), JobView)

    def cancel(self, job_id: str) -> JobView:
        """POST /jobs/{id}/cancel."""
        return _read(self._call("POST", f"/jobs/{_safe(job_id)}/cancel"), JobView)

    def retry(self, job_id: str) -> JobView:
        """POST /jobs/{id}/retry."""
        return _read(self._call("POST", f"/jobs/{_safe(job_id)}/retry"), JobView)

    def follow(
        self, job_id: str, *, after: int = 0, away: Callable[[str | None], None] = lambda why: None
    ) -> Iterator[Event]:
        """Events after id `after`, and new ones until the job has ended.

        A service that goes away in between is waited for, and no event is lost or told twice. `away` is
        called with the reason, and with None when it is back. Raises ServiceAwayError when it was away at the
        start, or for a quarter of an hour.
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
                # A stream ends with its job, and when the service is stopped: only the job's status tells.
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
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def wait(self, job_id: str) -> JobView:
        """The job after it has ended."""
        for _ in self.follow(job_id):
            pass
        return self.job(job_id)

    def logs(self, job_id: str, *, attempt: int | None = None, follow: bool = False) -> Iterator[str]:
        """Output of the driver, piece by piece."""
        params: dict[str, str | int] = {"follow": "true"} if follow else {}
        if attempt is not None:
            params["attempt"] = attempt
        path = f"/jobs/{_safe(job_id)}/logs"
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
        """The report's figures."""
        return _parsed(self.report_json(job_id), ReportDocument)

    def report_json(self, job_id: str) -> bytes:
        """The report's figures as they are stored."""
        return self._call("GET", f"/jobs/{_safe(job_id)}/report", params={"format": "json"}).content

    def report_html(self, job_id: str) -> bytes:
        """The report's page."""
        return self._call("GET", f"/jobs/{_safe(job_id)}/report", params={"format": "html"}).content

    def artifacts(self, job_id: str) -> ArtifactList:
        """GET /jobs/{id}/artifacts."""
        return _read(self._call("GET", f"/jobs/{_safe(job_id)}/artifacts"), ArtifactList)

    def file(self, file: FileView) -> Iterator[bytes]:
        """Content of one file of an artifact, from the service or from where it sends us. Not verified."""
        try:
            with self._http.stream("GET", file.url, follow_redirects=True) as answer:
                self._refused(answer)
                yield from answer.iter_raw()
        except httpx.TransportError as error:
            raise ServiceAwayError(self.url, str(error) or type(error).__name__) from error

    def ping(self) -> None:
        """Raise ServiceAwayError unless the service answers."""
        self._call("GET", "/healthz")

    def _stream(self, job_id: str, *, after: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        path = f"/jobs/{_safe(job_id)}/events"
        timeout = httpx.Timeout(10, read=SILENCE_SECONDS)
        with self._http.stream("GET", path, headers=headers, timeout=timeout) as answer:
            self._refused(answer)
            for message in messages(answer.iter_bytes()):
                yield _parsed(message.data, Event)

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Mapping[str, str | int | Sequence[str] | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=json, params=params, headers=headers)
        except httpx.TransportError as error:
            raise ServiceAwayError(self.url, str(error) or type(error).__name__) from error
        self._refused(answer)
        return answer

    def _refused(self, answer: httpx.Response) -> None:
        """Raise what the answer says, unless it is a success."""
        if answer.is_success:
            return
        answer.read()
        try:
            error = answer.json()["error"]
            message, code, param = error["message"], error["code"], error.get("param")
        except (ValueError, KeyError, TypeError):
            if answer.status_code in AWAY:
                raise ServiceAwayError(self.url, f"HTTP {answer.status_code}") from None
            message = f"{self.url} answered HTTP {answer.status_code}: {answer.text[:200]}"
            raise ClientError(message, code="unexpected_answer", status=answer.status_code) from None
        raise ClientError(message, code=code, param=param, status=answer.status_code)


def _read(answer: httpx.Response, model: type[Model]) -> Model:
    return _parsed(answer.content, model)


def _parsed(content: bytes | str, model: type[Model]) -> Model:
    try:
        return model.model_validate_json(content, extra="ignore")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ClientError(
            f"the service answered no {model.__name__}: {field} {first['msg'].lower()}; "
            f"is it a Secateur of another version?",
            code="unexpected_answer",
        ) from error


def _plain(request: JobRequest | Mapping[str, object]) -> object:
    return request.model_dump(mode="json") if isinstance(request, JobRequest) else request


def _safe(job_id: str) -> str:
    return quote(job_id, safe="")
