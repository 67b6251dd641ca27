"""Every way in which an attempt can end, and what is kept of its log."""

import pytest

from api.background.following import LINGER
from api.submit import RayJob
from pipeline.job.events import AttemptFailed, AttemptStarted, FailureReason, NodePlanned
from tests.api.background.dispatching import Scene

pytestmark = pytest.mark.servers


def test_success_tells_what_the_driver_could_not(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    shown = scene.job(job)
    assert (shown["status"], shown["progress"], shown["error"]) == ("succeeded", 1.0, None)
    assert {s["node"]: s["status"] for s in shown["stages"]}["prune"] == "cached"
    assert scene.types(job)[2:] == ["attempt.started", "stage.finished", "job.succeeded"]
    assert scene.says(AttemptStarted(nodes=())) == 410


def test_success_repeats_nothing(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.says(AttemptStarted(nodes=(NodePlanned(node="prune", stage="prune", needs=()),)))
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    assert scene.types(job).count("attempt.started") == 1


def test_a_result_counts_however_the_driver_ended(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.stores_result(job)
    scene.ray.end("FAILED", exit_code=137)
    dispatcher.round()
    assert scene.job(job)["status"] == "succeeded"


def test_a_dead_driver_is_tried_again_until_the_limit(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    for number in (1, 2, 3):
        dispatcher.round()
        assert scene.ray.submissions[-1].submission_id == f"{job}-{number}"
        scene.ray.end("FAILED", message="one\ntwo\nKilled", exit_code=137)
        dispatcher.round()
        dispatcher.round()
        assert len(scene.ray.submissions) == number  # there is a pause before the next
        scene.skip_pause()
    shown = scene.job(job)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "driver_died")
    assert "exit code 137" in shown["error"]["message"]
    assert "Killed" in shown["error"]["message"]
    assert shown["error"]["log"] == f"/jobs/{job}/logs?attempt=3"
    dispatcher.round()
    assert len(scene.ray.submissions) == 3

    assert scene.api.client.post(f"/jobs/{job}/retry").status_code == 200
    dispatcher.round()
    assert scene.ray.submissions[-1].submission_id == f"{job}-4"
    scene.ray.end("FAILED", exit_code=1)
    dispatcher.round()
    assert scene.job(job)["status"] == "queued"  # a retry counts its tries anew


@pytest.mark.parametrize("retryable", [True, False])
def test_the_drivers_own_reason_decides(scene: Scene, retryable: bool) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    reason = FailureReason(
        code="source_changed", message="it moved", node="import_model", retryable=retryable
    )
    scene.says(AttemptStarted(nodes=()), AttemptFailed(reason=reason))
    dispatcher.round()
    assert scene.job(job)["status"] == "running"  # the driver has not left yet
    scene.ray.end("FAILED", message="exit 1", exit_code=1)
    dispatcher.round()
    shown = scene.job(job)
    assert scene.types(job).count("attempt.failed") == 1
    if retryable:
        assert shown["status"] == "queued"
    else:
        assert (shown["status"], shown["error"]["code"]) == ("failed", "source_changed")
        assert (shown["error"]["node"], shown["error"]["log"]) == (
            "import_model",
            f"/jobs/{job}/logs?attempt=1",
        )


def test_a_driver_that_lingers_is_stopped(scene: Scene) -> None:
    scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[scene.ray.submissions[0].submission_id] = RayJob(status="RUNNING")
    scene.says(AttemptFailed(reason=FailureReason(code="x", message="x")))
    dispatcher.round()
    assert scene.ray.stopped == []
    scene.now += 2 * LINGER
    dispatcher.round()
    assert scene.ray.stopped == [scene.ray.submissions[0].submission_id]


def test_a_submission_that_ray_lost(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs.clear()
    dispatcher.round()
    assert scene.job(job)["status"] == "queued"
    events = scene.api.client.get(f"/jobs/{job}/events").json()["data"]
    failure = next(e["body"] for e in events if e["body"]["type"] == "attempt.failed")
    assert failure["reason"]["code"] == "submission_lost"


def test_success_without_a_result_is_none(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher(max_attempts=1)
    dispatcher.round()
    scene.ray.end("SUCCEEDED", exit_code=0)
    dispatcher.round()
    assert scene.job(job)["error"]["code"] == "result_missing"


def test_logs_are_kept(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.logs[f"{job}-1"] = "first line\nlast line ☃\n"
    scene.ray.end("FAILED", exit_code=1)
    dispatcher.round()
    scene.ray.logs.clear()
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.text) == (200, "first line\nlast line ☃\n")
    assert scene.api.client.get(f"/jobs/{job}/logs", params={"attempt": 2}).status_code == 404
    followed = scene.api.client.get(f"/jobs/{job}/logs", params={"attempt": 1, "follow": "true"})
    assert followed.text == answer.text


def test_no_log_before_the_first_attempt(scene: Scene) -> None:
    job = scene.post()
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.text) == (200, "")
    scene.api.client.post(f"/jobs/{job}/cancel")
    assert scene.api.client.get(f"/jobs/{job}/logs", params={"follow": "true"}).text == ""


def test_logs_of_a_ray_that_is_away(scene: Scene) -> None:
    job = scene.post()
    scene.dispatcher().round()  # the API's own client looks where nobody listens
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ray_unavailable")
