"""POST /jobs, GET /jobs, cancel and retry."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from api.db.models import Job
from api.examples import REQUEST_EXAMPLES
from api.service.ids import JOB_ID_PATTERN, new_job_id
from api.service.jobs import journal
from pipeline.job.events import FailureReason, JobFailed, JobSucceeded
from tests.api.bodies import MODEL, body
from tests.api.conftest import RunningApi, with_key


def post(api: RunningApi, **given: Any) -> dict[str, Any]:
    answer = api.client.post("/jobs", json=body(**given))
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def end(api: RunningApi, job_id: str, outcome: Any) -> None:
    """What the dispatcher would write."""
    with api.services.database.write() as session:
        job = journal.locked(session, job_id)
        assert job is not None
        journal.append(session, job, [journal.said_now(outcome, attempt=0)])


def failed() -> JobFailed:
    return JobFailed(reason=FailureReason(code="worker_lost", message="gone", node="prune"))


def test_accepts_a_job(api: RunningApi) -> None:
    answer = api.client.post("/jobs", json=body(labels={"team": "serving"}, name="first", priority=3))
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert re.fullmatch(JOB_ID_PATTERN, job["id"])
    assert job["object"] == "job"
    assert job["status"] == "queued"
    assert (job["name"], job["labels"], job["priority"]) == ("first", {"team": "serving"}, 3)
    assert (job["model"], job["attempt"], job["progress"], job["error"]) == (MODEL, 0, 0, None)
    assert isinstance(job["created_at"], int)
    assert job["links"]["events"] == f"/jobs/{job['id']}/events"
    assert api.client.get(answer.headers["Location"]).json() == job
    events = api.client.get(job["links"]["events"]).json()["data"]
    assert [event["body"]["type"] for event in events] == ["job.queued"]


def test_posts_the_examples_of_the_documentation(sqlite_api: RunningApi) -> None:
    for example in REQUEST_EXAMPLES.values():
        answer = sqlite_api.client.post("/jobs", json=example["value"])
        assert answer.status_code == 202, answer.text


def test_ids_sort_by_time() -> None:
    ids = [new_job_id() for _ in range(2000)]
    assert len(set(ids)) == len(ids)
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


def test_unknown_jobs_are_404(api: RunningApi) -> None:
    for job_id in (new_job_id(), "job-x", "%00", "job-0000000000000000000z"):
        for path in ("", "/events", "/logs", "/artifacts", "/report", "/artifacts/a/b/c"):
            answer = api.client.get(f"/jobs/{job_id}{path}")
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "job_not_found"
        for action in ("cancel", "retry"):
            assert api.client.post(f"/jobs/{job_id}/{action}").status_code == 404


def test_idempotency_key_gives_the_same_job(api: RunningApi) -> None:
    headers = {"Idempotency-Key": "nightly-2026-11-22"}
    first = api.client.post("/jobs", json=body(), headers=headers)
    again = api.client.post("/jobs", json=body(), headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["id"] == again.json()["id"]
    other = api.client.post("/jobs", json=body(priority=1), headers=headers)
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_conflict"
    assert len(api.client.get("/jobs").json()["data"]) == 1


def test_idempotency_key_in_a_race(api: RunningApi) -> None:
    def once(_: int) -> httpx.Response:
        with with_key(api.url) as client:  # a connection of its own
            return client.post("/jobs", json=body(), headers={"Idempotency-Key": "race"}, timeout=60)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(once, range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(api.client.get("/jobs").json()["data"]) == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "käse"])
def test_refuses_odd_idempotency_keys(sqlite_api: RunningApi, key: str) -> None:
    answer = sqlite_api.client.post("/jobs", json=body(), headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "Idempotency-Key"


def test_pages_newest_first(api: RunningApi) -> None:
    made = [post(api)["id"] for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = api.client.get("/jobs", params={"limit": 3} | ({"after": after} if after else {})).json()
        assert page["object"] == "list"
        seen += [job["id"] for job in page["data"]]
        after = page["next"]
        assert page["has_more"] == (after is not None)
        if not page["has_more"]:
            break
    assert sorted(seen, reverse=True) == sorted(made, reverse=True)
    assert [i[:13] for i in seen] == sorted((i[:13] for i in made), reverse=True)


def test_filters(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=2)
    one = post(api, labels={"team": "a", "env": "dev"}, model="s3://bucket/llama_7b")["id"]
    with monkeypatch.context() as then:
        then.setattr("api.service.ids.time.time_ns", lambda: int(long_ago.timestamp() * 1e9))
        two = post(api, labels={"team": "b"}, model="s3://bucket/mistral")["id"]
    api.client.post(f"/jobs/{two}/cancel")
    with api.services.database.write() as session:
        session.execute(update(Job).where(Job.id == two).values(created_at=long_ago))
    yesterday = int((datetime.now(UTC) - timedelta(days=1)).timestamp())

    def found(**params: Any) -> set[str]:
        answer = api.client.get("/jobs", params=params)
        assert answer.status_code == 200, answer.text
        return {job["id"] for job in answer.json()["data"]}

    assert found() == {one, two}
    assert found(status="queued") == {one}
    assert found(status="cancelled") == {two}
    assert found(label="team:a") == {one}
    assert found(label=["team:a", "env:dev"]) == {one}
    assert found(label=["team:a", "env:prod"]) == set()
    assert found(model="mistral") == {two}
    assert found(model="llama%7b") == set()
    assert found(model="llama_7b") == {one}
    assert found(created_after=yesterday) == {one}
    assert found(created_before=yesterday) == {two}
    assert found(created_before=253_402_300_799) == {one, two}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("status=done", "status"),
        ("label=team", "label"),
        ("label=team%00:x", "label"),
        ("model=%00", "model"),
        ("after=%00", "after"),
        ("after=job-zzzzzzzzzzzzzzzzzzzz", "after"),
        ("limit=0", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("created_after=1e99", "created_after"),
        ("created_before=253402300800", "created_before"),
    ],
)
def test_refuses_odd_queries(sqlite_api: RunningApi, query: str, param: str) -> None:
    answer = sqlite_api.client.get(f"/jobs?{query}")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", param)


def test_cancels_at_once_what_waits(api: RunningApi) -> None:
    job = post(api)
    answer = api.client.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["finished_at"] is not None
    assert api.client.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    retried = api.client.post(f"/jobs/{job['id']}/retry")
    assert (retried.status_code, retried.json()["status"]) == (200, "queued")


def test_ended_jobs_are_not_cancelled(api: RunningApi) -> None:
    job = post(api)
    end(api, job["id"], JobSucceeded())
    answer = api.client.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_ended")


def test_retries_only_what_failed(api: RunningApi) -> None:
    job = post(api)
    answer = api.client.post(f"/jobs/{job['id']}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_not_retryable")
    end(api, job["id"], failed())
    shown = api.client.get(f"/jobs/{job['id']}").json()
    assert shown["status"] == "failed"
    assert (shown["error"]["code"], shown["error"]["node"]) == ("worker_lost", "prune")
    assert api.client.post(f"/jobs/{job['id']}/retry").json()["status"] == "queued"
    assert api.client.get(f"/jobs/{job['id']}").json()["error"] is None
