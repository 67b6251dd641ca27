"""What drivers report."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.service.jobs import attempts
from pipeline.job.events import (
    AttemptStarted,
    EventBody,
    FailureReason,
    JobSucceeded,
    Message,
    NodePlanned,
    StageFinished,
    StageProgress,
    StageStarted,
)
from pipeline.job.ledger import Measured, NodeResult
from tests.api.attempts import LEASE, FakeDriver, event, next_attempt, started_job
from tests.api.conftest import RunningApi

STARTED = AttemptStarted(nodes=(NodePlanned(node="prune", stage="prune", needs=()),))
PROGRESS = StageProgress(node="prune", done=1, total=4, unit="block")
KEY = "0" * 64
FINISHED = StageFinished(
    result=NodeResult(node="prune", key=KEY, cached=False, artifacts={}, measured=Measured(seconds=2))
)


def types(driver: FakeDriver) -> list[str]:
    answer = driver.api.client.get(f"/jobs/{driver.live.job}/events", params={"limit": 1000})
    return [told["body"]["type"] for told in answer.json()["data"]]


def test_events_move_the_job(api: RunningApi) -> None:
    driver = started_job(api)
    answer = driver.say(STARTED, StageStarted(node="prune", key=KEY), PROGRESS)
    assert (answer.status_code, answer.json()) == (200, {"accepted_through": 3})
    job = api.client.get(f"/jobs/{driver.live.job}").json()
    assert (job["status"], job["stage"], job["attempt"], job["progress"]) == ("running", "prune", 1, 0.25)
    assert job["stages"][0]["unit"] == "block"
    driver.say(FINISHED)
    assert api.client.get(f"/jobs/{driver.live.job}").json()["progress"] == 1.0
    metrics = api.client.get("/metrics").text
    assert 'secateur_stage_seconds_sum{stage="prune"} 2.0' in metrics


def test_repeats_are_harmless(api: RunningApi) -> None:
    driver = started_job(api)
    batch = [event(1, STARTED), event(2, PROGRESS)]
    assert driver.post(batch).json() == {"accepted_through": 2}
    assert driver.post(batch).json() == {"accepted_through": 2}
    assert driver.post([event(2, PROGRESS), event(3, PROGRESS)]).json() == {"accepted_through": 3}
    assert driver.post([]).json() == {"accepted_through": 3}
    assert types(driver).count("stage.progress") == 2


def test_repeats_in_a_race(api: RunningApi) -> None:
    driver = started_job(api)
    batch = [event(n, PROGRESS) for n in range(1, 21)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: driver.post(batch).status_code, range(16)))
    assert set(answers) == {200}
    assert types(driver).count("stage.progress") == 20


def test_gaps_are_refused_with_what_is_expected(api: RunningApi) -> None:
    driver = started_job(api)
    driver.post([event(1, STARTED)])
    answer = driver.post([event(4, PROGRESS)])
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert (error["code"], error["expected"]) == ("sequence_gap", 2)


def test_only_the_attempts_token_is_good(api: RunningApi) -> None:
    first = started_job(api)
    second = started_job(api)
    events = [event(1, STARTED)]
    assert first.post(events, token="").status_code == 401
    assert first.post(events, token="wrong").status_code == 403
    assert first.post(events, token=second.token).status_code == 403
    elsewhere = api.client.post(
        f"/internal/attempts/{first.live.job}/2/events",
        json={"events": events},
        headers={"Authorization": f"Bearer {first.token}"},
    )
    assert elsewhere.status_code == 403
    assert types(first) == ["job.queued", "attempt.submitted"]


def test_tokens_are_not_in_the_database(sqlite_api: RunningApi) -> None:
    driver = started_job(sqlite_api)
    raw = driver.api.services.database.engine.raw_connection()
    try:
        dump = "\n".join(raw.driver_connection.iterdump())  # type: ignore[union-attr]
    finally:
        raw.close()
    assert driver.live.job in dump
    assert driver.token not in dump


def test_an_ended_attempt_is_over(api: RunningApi) -> None:
    driver = started_job(api)
    reason = FailureReason(code="worker_lost", message="gone")
    attempts.fail(api.services.database, LEASE, driver.live, reason, limit=3)
    answer = driver.say(STARTED)
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "attempt_ended")
    assert api.client.get(f"/jobs/{driver.live.job}").json()["status"] == "queued"


def test_a_second_attempt_counts_anew(api: RunningApi) -> None:
    first = started_job(api)
    first.say(STARTED)
    attempts.interrupt(api.services.database, LEASE, first.live)
    second = next_attempt(api)
    assert (second.live.job, second.live.number) == (first.live.job, 2)
    assert second.say(STARTED).json() == {"accepted_through": 1}
    job = api.client.get(f"/jobs/{first.live.job}").json()
    assert (job["status"], job["attempt"]) == ("running", 2)


@pytest.mark.parametrize("told", [JobSucceeded()], ids=lambda told: told.type)
def test_drivers_cannot_say_what_is_not_theirs(sqlite_api: RunningApi, told: EventBody) -> None:
    driver = started_job(sqlite_api)
    answer = driver.say(told)
    assert answer.status_code == 422
    assert "drivers may not report" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "at", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"]
)
def test_odd_times_are_refused(sqlite_api: RunningApi, at: str) -> None:
    driver = started_job(sqlite_api)
    assert driver.post([event(1, STARTED, at=at)]).status_code == 422


def test_numbers_that_are_none_are_refused(sqlite_api: RunningApi) -> None:
    driver = started_job(sqlite_api)
    path = f"/internal/attempts/{driver.live.job}/1/events"
    text = json.dumps({"events": [event(1, PROGRESS)]}).replace('"done": 1.0', '"done": NaN')
    headers = {"Authorization": f"Bearer {driver.token}", "Content-Type": "application/json"}
    assert "NaN" in text
    assert sqlite_api.client.post(path, content=text, headers=headers).status_code == 422
    assert sqlite_api.client.get(f"/jobs/{driver.live.job}").status_code == 200


def test_any_text_is_kept(api: RunningApi) -> None:
    driver = started_job(api)
    text = "NUL \x00, line\nfeed, snowman ☃, emoji 🌳, \u2028"
    assert driver.say(Message(text=text)).status_code == 200
    events = api.client.get(f"/jobs/{driver.live.job}/events").json()["data"]
    assert events[-1]["body"]["text"] == text
