"""Outputs of drivers that many follow: Ray is asked once for all of them."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import pytest

from api.service.jobs import tails
from api.settings import Settings
from api.submit import RayJobsClient
from pipeline.job.events import FailureReason
from tests.api.background.dispatching import FakeRay, Scene
from tests.api.conftest import running

pytestmark = pytest.mark.servers


@pytest.fixture
def scene(make_settings: Callable[..., Settings]) -> Iterator[Scene]:
    settings = make_settings(max_running_jobs=1)
    with running(settings) as api:
        ray = FakeRay()
        api.app.state.services = replace(api.services, ray=cast(RayJobsClient, ray))
        yield Scene(api, ray, settings)


def fail(scene: Scene) -> None:
    scene.ray.end("FAILED")
    scene.dispatcher().round()
    scene.skip_pause()


def test_attempt_after_attempt_is_followed_and_one_alone_too(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.logs[f"{job}-1"] = "first\n"
    got: dict[str, bytes] = {}
    begun = {name: threading.Event() for name in ("all", "one", "two")}

    def follow(name: str, **params: int) -> None:
        given = {"follow": "true", **{key: str(value) for key, value in params.items()}}
        with scene.api.client.stream("GET", f"/jobs/{job}/logs", params=given) as answer:
            got[name] = b""
            for piece in answer.iter_bytes():
                got[name] += piece
                begun[name].set()

    threads = [
        threading.Thread(target=follow, args=("all",)),
        threading.Thread(target=follow, args=("two",)),
        threading.Thread(target=follow, args=("one",), kwargs={"attempt": 1}),
    ]
    for thread in threads:
        thread.start()
    for event in begun.values():
        assert event.wait(60)
    fail(scene)
    threads[2].join(60)
    dispatcher.round()
    scene.ray.logs[f"{job}-2"] = "second\n"
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    for thread in threads:
        thread.join(60)
    assert got["one"] == b"first\n"
    assert got["all"] == got["two"] == b"first\n\n--- attempt 2 ---\nsecond\n"


def test_many_followers_are_one_question(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    job = scene.post()
    scene.dispatcher().round()
    scene.ray.logs[f"{job}-1"] = "words\n"
    monkeypatch.setattr(tails, "FOLLOW_SECONDS", 3600.0)
    before = scene.ray.asked
    with contextlib.ExitStack() as followed:
        given = {"follow": "true"}
        answers = [
            followed.enter_context(scene.api.client.stream("GET", f"/jobs/{job}/logs", params=given))
            for _ in range(10)
        ]
        pieces = [answer.iter_bytes() for answer in answers]  # one that is forgotten ends its stream
        assert [next(piece) for piece in pieces] == [b"words\n"] * 10
        assert scene.ray.asked - before == 1
        monkeypatch.setattr(tails, "MOST", 1)
        refused = scene.api.client.get(f"/jobs/{job}/logs", params={**given, "attempt": 1})
        assert refused.json()["error"]["code"] == "too_many_logs"


def test_the_beginning_of_a_long_output_is_left_out(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "KEPT_BYTES", 10)
    job = scene.post()
    dispatcher = scene.dispatcher(max_attempts=1)
    dispatcher.round()
    scene.ray.logs[f"{job}-1"] = "0123456789abcdef"
    scene.ray.end("FAILED")
    dispatcher.round()
    answer = scene.api.client.get(f"/jobs/{job}/logs", params={"follow": "true"})
    assert answer.text == "[6 bytes before this are left out]\n6789abcdef"
    assert scene.job(job)["error"]["code"] == FailureReason(code="driver_died", message="").code
