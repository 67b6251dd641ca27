"""Slow sources take a few places, and nobody else waits for them."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from api.service import resolving
from api.settings import Settings
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from tests.api.bodies import body
from tests.api.conftest import running
from tests.made_pins import made_pins

pytestmark = pytest.mark.servers


class Slow:
    """A resolver whose sources answer when the test says so."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.answer = threading.Event()

    def __call__(self, spec: PruneSpec) -> Pins:
        self.begun.release()
        assert self.answer.wait(120)
        return made_pins(spec)


def test_slow_sources_starve_nobody(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolving, "WAIT_SECONDS", 0.1)
    slow, statuses = Slow(), []

    with running(make_settings(resolve_at_once=2), resolver=slow) as api:

        def post() -> None:
            statuses.append(api.client.post("/jobs", json=body()).status_code)

        threads = [threading.Thread(target=post) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert slow.begun.acquire(timeout=60)
        refused = api.client.post("/jobs", json=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_submissions")
        assert refused.headers["Retry-After"] == "5"
        assert api.client.get("/jobs").status_code == 200
        slow.answer.set()
        for thread in threads:
            thread.join(60)
        assert statuses == [202, 202]
        assert api.client.post("/jobs", json=body()).status_code == 202


def test_sources_that_are_late(make_settings: Callable[..., Settings]) -> None:
    slow = Slow()
    with running(make_settings(resolve_seconds=0.2), resolver=slow) as api:
        late = api.client.post("/jobs", json=body())
        assert late.json()["error"]["code"] == "source_unreachable"
        assert "SECATEUR_RESOLVE_SECONDS" in late.json()["error"]["message"]
        assert api.client.get("/jobs").json()["data"] == []
        slow.answer.set()


def test_a_change_of_a_schedule_asks_its_bucket_without_a_lock(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """While the bucket is asked, others write, and a change of theirs is not lost."""
    from api.service.schedules import schedules

    cron = {"expression": "0 12 * * *", "timezone": "UTC"}
    with running(make_settings()) as api:
        made = api.client.post("/schedules", json={"name": "x", "cron": cron, "template": body()})
        assert made.status_code == 201
        real, others = schedules._check, [{"alias": "theirs"}]

        def slow_check(services: Any, request: Any) -> None:
            if others:
                answer = api.client.patch("/schedules/x", json=others.pop())
                assert answer.status_code == 200
            real(services, request)

        monkeypatch.setattr(schedules, "_check", slow_check)
        assert api.client.patch("/schedules/x", json={"gates": []}).status_code == 200
        shown = api.client.get("/schedules/x").json()
        assert (shown["alias"], shown["gates"]) == ("theirs", [])
