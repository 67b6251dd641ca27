"""Jobs through a real Ray, with a stand-in for the driver."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.embedded import EmbeddedRay
from api.settings import Settings
from api.submit import RayEndpoint, RayJobsClient, RayRefused, RayUnavailable, Submission, cluster
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.api.standin import JSON

pytestmark = pytest.mark.e2e
PATIENCE_SECONDS = 500  # a busy machine needs a part of it
ENDED = ("succeeded", "failed", "cancelled")


@pytest.fixture
def api(embedded_ray: EmbeddedRay, make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API that hands jobs to the session's Ray."""
    settings = make_settings(
        ray_address=embedded_ray.endpoint().address,
        ray_token_path=embedded_ray.token_path,
        driver_python=sys.executable,
        driver_module="tests.api.standin",
        max_running_jobs=4,
        poll_seconds=0.3,
    )
    with running(settings, dispatch=True) as started:
        yield started


def post(api: RunningApi, behaviour: str) -> str:
    answer = api.client.post("/jobs", json=body(name=behaviour, labels={"standin": behaviour}))
    assert answer.status_code == 202
    return str(answer.json()["id"])


def wait(api: RunningApi, job_id: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        job: dict[str, Any] = api.client.get(f"/jobs/{job_id}").json()
        if job["status"] in statuses:
            return job
        time.sleep(0.2)
    raise AssertionError(f"job is {job['status']} to the end, not {statuses}: {job}")


def test_every_way_in_which_a_driver_ends(api: RunningApi) -> None:
    ways = ("plain", "silent", "killed", "failing", "refused", "empty")
    jobs = {way: post(api, way) for way in ways}
    ended = {way: wait(api, job, *ENDED) for way, job in jobs.items()}
    outcomes = {
        way: (job["status"], job["attempt"], (job["error"] or {}).get("code")) for way, job in ended.items()
    }
    assert outcomes == {
        "plain": ("succeeded", 1, None),
        "silent": ("succeeded", 1, None),
        "killed": ("succeeded", 2, None),
        "failing": ("failed", 3, "worker_lost"),
        "refused": ("failed", 1, "worker_lost"),
        "empty": ("failed", 3, "result_missing"),
    }
    assert ended["plain"]["progress"] == ended["silent"]["progress"] == 1.0
    log = api.client.get(f"/jobs/{jobs['killed']}/logs", params={"attempt": 1}).text
    assert "the stand-in works on attempt 1" in log
    both = api.client.get(f"/jobs/{jobs['killed']}/logs", params={"follow": "true"}).text
    assert "--- attempt 2 ---" in both or "works on attempt 2" in both
    assert api.client.get(f"/jobs/{jobs['plain']}/report").content == JSON
    assert api.client.get(ended["failing"]["error"]["log"]).status_code == 200
    metrics = api.client.get("/metrics").text
    assert 'secateur_attempts_total{outcome="succeeded"} 3.0' in metrics
    ready = api.client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_cancel_and_retry_and_a_log_that_is_followed(api: RunningApi) -> None:
    job = post(api, "waiting")
    wait(api, job, "running")
    with api.client.stream("GET", f"/jobs/{job}/logs", params={"follow": "true"}) as answer:
        lines = answer.iter_lines()
        assert any("works on attempt 1" in line for line in lines)
        assert api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelling"
        list(lines)  # the stream ends with the job
    assert wait(api, job, *ENDED)["status"] == "cancelled"
    assert api.client.post(f"/jobs/{job}/retry").json()["status"] == "queued"
    again = wait(api, job, *ENDED)
    assert (again["status"], again["attempt"]) == ("succeeded", 2)


def test_the_jobs_client(embedded_ray: EmbeddedRay) -> None:
    client = RayJobsClient(cluster(embedded_ray.endpoint().address + "/", embedded_ray.token_path))
    client.ping()
    name = f"client-{time.time_ns()}"
    submission = Submission(
        submission_id=name,
        entrypoint=f"{sys.executable} -c 'import os; print(os.environ[\"COLOUR\"])'",
        environment={"COLOUR": "green"},
        metadata={"a": "b"},
    )
    client.submit(submission)
    client.submit(submission)  # Ray says 500; it is the same job
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := client.find(name)) is not None and found.status in ("PENDING", "RUNNING"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert found is not None
    assert (found.status, found.exit_code) == ("SUCCEEDED", 0)
    assert "green" in (client.log(name) or "")
    client.stop(name)
    assert client.find("nothing") is None
    assert client.log("nothing") is None
    client.stop("nothing")

    client.close()


def test_a_ray_that_cannot_be_used(embedded_ray: EmbeddedRay, tmp_path: Path) -> None:
    def ping(endpoint: Callable[[], RayEndpoint]) -> None:
        with contextlib.closing(RayJobsClient(endpoint)) as client:
            client.ping()

    with pytest.raises(RayRefused, match="HTTP 401"):
        ping(lambda: RayEndpoint(embedded_ray.endpoint().address))
    with pytest.raises(RayRefused, match=r"HTTP 40[13]"):
        ping(lambda: RayEndpoint(embedded_ray.endpoint().address, "wrong"))
    with pytest.raises(RayUnavailable, match="RAY_TOKEN_PATH"):
        ping(cluster("http://127.0.0.1:9", tmp_path / "nothing"))
    with pytest.raises(RayUnavailable, match="does not answer"):
        ping(cluster("http://127.0.0.1:9", None))
