"""A client of Ray's Jobs REST API over httpx, so that the service need not import Ray."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import httpx
from pydantic import ValidationError

from pipeline.canonical import Frozen

TIMEOUT = httpx.Timeout(30, connect=5)

FEW = 4  # jobs that are asked for one by one

RayStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
RAY_ENDED: frozenset[RayStatus] = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})


class RayUnavailable(Exception):
    """Ray did not answer, or its answer is not understood."""


class RayRefused(RayUnavailable):
    """Ray answered with an error. `final`: Ray understood the request and will never grant it. It may grant
    one that it answered with 5xx (it is starting, or overloaded), 401 or 403 (its token is being changed),
    408 or 429."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.final = 400 <= status < 500 and status not in (401, 403, 408, 429)


@dataclass(frozen=True)
class RayEndpoint:
    """The address of Ray's dashboard, and the token that it asks for."""

    address: str
    token: str | None = field(default=None, repr=False)


class RayJob(Frozen):
    """The state of one submission, as Ray reports it."""

    status: RayStatus
    message: str | None = None
    exit_code: int | None = None


class Submission(Frozen):
    """A command that Ray shall run."""

    submission_id: str
    entrypoint: str
    environment: dict[str, str]
    metadata: dict[str, str]


class RayJobsClient:
    """Starts, finds and stops jobs on Ray. Every method raises RayUnavailable when Ray does not answer.

    `endpoint` is called before every request, because a restarted local Ray has another address.
    """

    def __init__(self, endpoint: Callable[[], RayEndpoint]) -> None:
        self._endpoint = endpoint
        self._client = httpx.Client(timeout=TIMEOUT, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def dashboard(self) -> str:
        """The address of the dashboard, for people."""
        return self._endpoint().address

    def ping(self) -> None:
        """Raise RayUnavailable unless Ray answers and accepts our token."""
        self._call("GET", "/api/version")

    def submit(self, submission: Submission) -> None:
        """Start a job. If Ray already has a job with this id, it is the same one, and nothing happens."""
        body = {
            "submission_id": submission.submission_id,
            "entrypoint": submission.entrypoint,
            "runtime_env": {"env_vars": submission.environment},
            "metadata": submission.metadata,
            "entrypoint_num_cpus": 0,
        }
        try:
            self._call("POST", "/api/jobs/", json=body)
        except RayRefused:
            if self.find(submission.submission_id) is None:  # Ray answers 500 to an id that it already has
                raise

    def find(self, submission_id: str) -> RayJob | None:
        """The state of a job; None when Ray does not know it."""
        answer = self._call("GET", f"/api/jobs/{submission_id}", missing_is_fine=True)
        if answer is None:
            return None
        return _ray_job(_object(answer))

    def found(self, submission_ids: Collection[str]) -> Mapping[str, RayJob]:
        """The states of those jobs that Ray knows. Beyond a few, Ray is asked once for all its jobs."""
        if len(submission_ids) <= FEW:
            each = {one: self.find(one) for one in submission_ids}
            return {one: state for one, state in each.items() if state is not None}
        answer = self._call("GET", "/api/jobs/")
        assert answer is not None, "only a missing job may have no answer"
        listed = {str(data.get("submission_id")): data for data in _objects(answer)}
        return {one: _ray_job(listed[one]) for one in submission_ids if one in listed}

    def stop(self, submission_id: str) -> None:
        """Ask a job to end (SIGTERM, after a while SIGKILL). Nothing happens when Ray does not know it."""
        self._call("POST", f"/api/jobs/{submission_id}/stop", missing_is_fine=True)

    def log(self, submission_id: str) -> str | None:
        """All output of a driver so far; None when Ray does not know it."""
        answer = self._call("GET", f"/api/jobs/{submission_id}/logs", missing_is_fine=True)
        return str(_object(answer).get("logs", "")) if answer is not None else None

    def _call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        missing_is_fine: bool = False,
    ) -> httpx.Response | None:
        endpoint = self._endpoint()
        try:
            answer = self._client.request(
                method, endpoint.address + path, json=json, headers=_headers(endpoint)
            )
        except httpx.HTTPError as error:
            raise RayUnavailable(f"Ray at {endpoint.address} does not answer: {error!r}") from error
        if answer.status_code == httpx.codes.NOT_FOUND and missing_is_fine:
            return None
        if answer.is_success:
            return answer
        raise RayRefused(
            f"Ray at {endpoint.address} answered {method} {path} with HTTP {answer.status_code}: "
            f"{answer.text[-500:]}",
            status=answer.status_code,
        )


def cluster(address: str, token_path: Path | None) -> Callable[[], RayEndpoint]:
    """The endpoint of an existing cluster. Its token is read at each call, because it may change."""

    def endpoint() -> RayEndpoint:
        try:
            token = token_path.read_text().strip() if token_path is not None else None
        except OSError as error:
            raise RayUnavailable(f"SECATEUR_RAY_TOKEN_PATH {token_path}: {error.strerror}") from error
        return RayEndpoint(address.rstrip("/"), token)

    return endpoint


def _headers(endpoint: RayEndpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {endpoint.token}"} if endpoint.token else {}


def _ray_job(data: dict[str, object]) -> RayJob:
    try:
        return RayJob.model_validate(
            {
                "status": data.get("status"),
                "message": data.get("message"),
                "exit_code": data.get("driver_exit_code"),
            }
        )
    except ValidationError as error:
        raise RayUnavailable(f"Ray answered no job that is understood: {error}") from error


def _object(answer: httpx.Response) -> dict[str, object]:
    data = _json(answer)
    if not isinstance(data, dict):
        raise RayUnavailable(f"{answer.url} answered no object")
    return data


def _objects(answer: httpx.Response) -> list[dict[str, object]]:
    data = _json(answer)
    if not isinstance(data, list) or not all(isinstance(one, dict) for one in data):
        raise RayUnavailable(f"{answer.url} answered no list of objects")
    return data


def _json(answer: httpx.Response) -> object:
    try:
        return answer.json()
    except ValueError as error:
        raise RayUnavailable(f"{answer.url} answered no JSON") from error
