"""GET /jobs/{id}/events: pages and streams."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from api.service.jobs import attempts
from api.settings import Settings
from pipeline.job.events import Message
from pipeline.job.ledger import JobResult
from tests.api.attempts import LEASE, FakeDriver, started_job
from tests.api.conftest import AUTHORIZED, RunningApi, running

STREAM = {"Accept": "text/event-stream"}


def notes(driver: FakeDriver, *texts: str) -> None:
    assert driver.say(*(Message(text=text) for text in texts)).status_code == 200


def read(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Messages of a stream."""
    found: dict[str, Any] = {}
    for line in answer.iter_lines():
        if not line and found:
            yield found
            found = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            found[name] = value


def test_pages_go_on_where_the_last_ended(api: RunningApi) -> None:
    driver = started_job(api)
    started_job(api)  # events of another job lie between
    notes(driver, *map(str, range(5)))
    path = f"/jobs/{driver.live.job}/events"
    seen: list[dict[str, Any]] = []
    after = 0
    while True:
        page = api.client.get(path, params={"after": after, "limit": 3}).json()
        seen += page["data"]
        after = page["next"]
        if not page["has_more"]:
            break
    assert [told["body"]["type"] for told in seen] == ["job.queued", "attempt.submitted"] + ["message"] * 5
    assert [told["id"] for told in seen] == sorted(told["id"] for told in seen)
    empty = api.client.get(path, params={"after": after}).json()
    assert (empty["data"], empty["has_more"], empty["next"]) == ([], False, after)
    notes(driver, "late")
    assert api.client.get(path, params={"after": after}).json()["data"][0]["body"]["text"] == "late"


def test_a_stream_tells_everything_and_ends_with_the_job(api: RunningApi) -> None:
    driver = started_job(api)
    path = f"/jobs/{driver.live.job}/events"
    known, told = len(api.client.get(path).json()["data"]), []
    with api.client.stream("GET", path, headers=STREAM) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for message in read(answer):
            told.append(message)
            written = len(told) - known  # each note is written when everything before it has been told
            if 0 <= written < 5:
                notes(driver, f"note {written}")
            elif written == 5:
                attempts.succeed(api.services.database, LEASE, driver.live, JobResult(nodes=()))
    page = api.client.get(path).json()["data"]
    assert [message["event"] for message in told] == [event["body"]["type"] for event in page]
    assert [int(message["id"]) for message in told] == [event["id"] for event in page]
    assert [json.loads(message["data"]) for message in told] == page
    assert told[-1]["event"] == "job.succeeded"


def test_a_stream_goes_on_after_last_event_id(api: RunningApi) -> None:
    driver = started_job(api)
    notes(driver, "a", "b", "c")
    path = f"/jobs/{driver.live.job}/events"
    with api.client.stream("GET", path, headers=STREAM) as answer:
        messages = read(answer)
        first = [next(messages) for _ in range(3)]
    notes(driver, "d")
    api.client.post(f"/jobs/{driver.live.job}/cancel")
    attempts.cancelled(api.services.database, LEASE, driver.live)
    with api.client.stream("GET", path, headers=STREAM | {"Last-Event-ID": first[-1]["id"]}) as answer:
        rest = list(read(answer))
    page = api.client.get(path).json()["data"]
    assert [int(m["id"]) for m in first + rest] == [event["id"] for event in page]
    assert rest[-1]["event"] == "job.cancelled"


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 40, "٣"])
def test_odd_last_event_ids_are_refused(sqlite_api: RunningApi, value: str) -> None:
    driver = started_job(sqlite_api)
    headers = {**{k: v.encode() for k, v in STREAM.items()}, "Last-Event-ID": value.encode()}
    answer = sqlite_api.client.get(f"/jobs/{driver.live.job}/events", headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "Last-Event-ID")


@pytest.mark.parametrize("after", ["-1", "9" * 30, "x"])
def test_odd_cursors_are_refused(sqlite_api: RunningApi, after: str) -> None:
    driver = started_job(sqlite_api)
    answer = sqlite_api.client.get(f"/jobs/{driver.live.job}/events", params={"after": after})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "after")


def test_many_followers_do_not_block_the_api(sqlite_api: RunningApi) -> None:
    driver = started_job(sqlite_api)
    url = f"{sqlite_api.url}/jobs/{driver.live.job}"
    headers = STREAM | AUTHORIZED
    opened = threading.Barrier(61)
    ends: list[str] = []

    def follow(path: str) -> None:
        with httpx.stream("GET", url + path, headers=headers, trust_env=False, timeout=300) as answer:
            opened.wait(300)
            ends.append(answer.read().decode())

    paths = ["/events"] * 60
    threads = [threading.Thread(target=follow, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    opened.wait(300)
    for _ in range(20):  # a blocked API would let the client's timeout pass
        assert sqlite_api.client.get(f"/jobs/{driver.live.job}").status_code == 200
    attempts.succeed(sqlite_api.services.database, LEASE, driver.live, JobResult(nodes=()))
    for thread in threads:
        thread.join()
    assert len(ends) == 60
    assert all("job.succeeded" in text for text in ends)


def test_a_stream_ends_when_its_key_is_revoked(api: RunningApi) -> None:
    driver = started_job(api)
    made = api.client.post("/keys", json={"name": "x", "role": "viewer"}).json()
    headers = {"Authorization": f"Bearer {made['key']}", **STREAM}
    with httpx.stream(
        "GET", f"{api.url}/jobs/{driver.live.job}/events", headers=headers, timeout=60
    ) as answer:
        told = read(answer)
        assert next(told)["event"] == "job.queued"
        assert api.client.post(f"/keys/{made['id']}/revoke").status_code == 200
        assert [one["event"] for one in told] == ["attempt.submitted"]


def test_many_streams_of_many_jobs_hear_each_event_once(api: RunningApi) -> None:
    drivers = [started_job(api) for _ in range(3)]
    heard: dict[int, list[str]] = {}
    begun = threading.Barrier(13)

    def follow(n: int, job: str) -> None:
        with httpx.stream(
            "GET", f"{api.url}/jobs/{job}/events", headers=AUTHORIZED | STREAM, timeout=60
        ) as answer:
            told = read(answer)
            heard[n] = [next(told)["id"]]
            begun.wait(60)
            heard[n] += [one["id"] for one in told]

    threads = [threading.Thread(target=follow, args=(n, drivers[n % 3].live.job)) for n in range(12)]
    for thread in threads:
        thread.start()
    begun.wait(60)
    for part in range(10):
        for driver in drivers:
            notes(driver, f"{part}")
    database = api.services.database
    for driver in drivers:
        attempts.succeed(database, LEASE, driver.live, JobResult(nodes=()))
    for thread in threads:
        thread.join(60)
    for n in range(12):
        stored = api.client.get(f"/jobs/{drivers[n % 3].live.job}/events").json()["data"]
        assert heard[n] == [str(one["id"]) for one in stored]


@pytest.mark.servers
def test_streams_are_limited(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings(max_streams=2)) as api:
        path = f"{api.url}/jobs/{started_job(api).live.job}/events"
        with contextlib.ExitStack() as open_ones:
            answers = [
                open_ones.enter_context(httpx.stream("GET", path, headers=AUTHORIZED | STREAM, timeout=60))
                for _ in range(2)
            ]
            told = [read(answer) for answer in answers]  # one that is forgotten ends its stream
            assert [next(one)["event"] for one in told] == ["job.queued"] * 2
            refused = api.client.get(path, headers=STREAM)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
            assert refused.headers["Retry-After"] == "5"
            assert api.client.get(path).status_code == 200
