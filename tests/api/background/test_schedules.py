"""Schedules at work, on both databases: what fires, what is left out, what is waited for."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.db.models import Schedule
from api.service.schedules import leases as schedule_leases
from pipeline.errors import SourceUnreachable
from tests.api.scheduling import NOON, START, Scene, template

pytestmark = pytest.mark.servers


def test_cron_makes_a_job_at_its_moment_and_once(night: Scene) -> None:
    made = night.create(
        cron={"expression": "30 2 * * *", "timezone": "Europe/Berlin"},
        template=template(
            night.root, model="whole", labels={"team": "serving", "schedule": "mine"}, priority=3
        ),
    )
    assert made["next_at"] == int(datetime(2026, 6, 2, 0, 30, tzinfo=UTC).timestamp())
    night.round(hours=12)
    assert night.jobs() == []
    night.round(minutes=31)
    (job,) = night.jobs()
    assert job["labels"] == {"team": "serving", "schedule": "nightly"}
    assert (job["name"], job["priority"], job["model"]) == ("nightly", 3, f"file:{night.root}/whole")
    (firing,) = night.firings()
    assert (firing["cause"], firing["outcome"], firing["job"]) == ("cron", "running", job["id"])
    assert (firing["due_at"], firing["schedule"]) == (made["next_at"], "nightly")
    for _ in range(3):
        night.round(seconds=1)
    assert len(night.jobs()) == 1

    night.clock.now = datetime(
        2026, 10, 24, 22, 0, tzinfo=UTC
    )  # the night in which half past two comes twice
    night.round()  # makes up for all the nights before, with one job
    assert len(night.jobs()) == 2
    for _ in range(5 * 60):
        night.round(minutes=1)
    assert len(night.jobs()) == 3
    assert night.firings()[-1]["due_at"] == int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp())


def test_moments_without_a_service(night: Scene) -> None:
    definition: dict[str, Any] = {"cron": NOON, "template": template(night.root, model="whole")}
    night.create(name="patient", **definition)
    night.create(name="strict", **definition, missed="skip")
    night.create(name="sleeping", **definition, paused=True)
    night.round(days=3, minutes=4)  # noon is four minutes ago: nothing was missed but what came before
    assert (night.outcomes("patient"), night.outcomes("strict")) == (["running"], ["running"])
    night.round(days=2, hours=1)
    late, missed = night.firings("patient")[-1], night.firings("strict")[-1]
    yesterday = int((START + timedelta(days=5)).timestamp())
    assert (late["outcome"], late["due_at"]) == ("running", yesterday)
    assert "made up for" in late["reason"]
    assert "since 2026-06-05 12:00 UTC" in late["reason"]
    assert (missed["outcome"], missed["due_at"], missed["job"]) == ("missed", yesterday, None)
    assert night.schedule("strict")["next_at"] == yesterday + 24 * 3600
    assert night.firings("sleeping") == []
    resumed = night.api.client.post("/schedules/sleeping/resume").json()
    assert resumed["next_at"] == yesterday + 24 * 3600
    night.round(minutes=1)
    assert night.firings("sleeping") == []
    assert b'secateur_firings_total{outcome="missed"} 1.0' in night.api.services.metrics.exposition()


def test_while_an_earlier_job_has_not_ended(night: Scene) -> None:
    for overlap in ("queue", "skip", "cancel"):
        night.create(
            name=overlap,
            cron=NOON,
            overlap=overlap,
            template=template(night.root, model="whole", name=overlap),
        )
    night.round(days=1)
    night.round(days=1)
    found = {job["id"]: job["status"] for job in night.jobs()}
    jobs = {name: [found.get(f["job"]) for f in night.firings(name)] for name in ("queue", "skip", "cancel")}
    assert jobs == {
        "queue": ["queued", "queued"],
        "skip": ["queued", None],
        "cancel": ["cancelled", "queued"],
    }
    assert night.outcomes("skip") == ["running", "skipped"]
    assert "had not ended" in night.firings("skip")[1]["reason"]
    night.round()
    assert night.outcomes("cancel") == ["cancelled", "running"]
    night.succeed(night.firings("skip")[0]["job"])
    night.round(days=1)
    assert night.outcomes("skip") == ["passed", "skipped", "running"]


def test_processes_that_race_fire_once(night: Scene) -> None:
    arrivals = night.api.services.settings.allowed_roots[1]
    shutil.copytree(night.root / "whole", arrivals / "a")
    watch = {"source": f"file:{arrivals}", "ready_marker": "config.json"}
    for i in range(3):
        night.create(name=f"cron-{i}", cron=NOON, template=template(night.root, model="whole"), alias="prod")
        night.create(name=f"new-{i}", on_new_checkpoint=watch, template=template(night.root), alias="prod")
    night.clock.go(days=1)
    schedulers = [night.another(f"process {n}") for n in range(4)]

    def work(n: int) -> None:
        for _ in range(4):
            with night.api.services.database.write() as session:  # nobody keeps a lease
                for schedule in session.scalars(select(Schedule).order_by(Schedule.id)):
                    schedule.lease_owner = None
            schedulers[n].round()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(night.jobs()) == 6
    names = [f"{kind}-{i}" for i in range(3) for kind in ("cron", "new")]
    assert all(night.outcomes(name) == ["running"] for name in names)
    for job in night.jobs():
        night.succeed(job["id"])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert all(night.outcomes(name) == ["promoted"] for name in names)
    assert night.pointer("prod") == night.api.client.get("/aliases/prod").json()


def test_a_lease_is_kept_and_taken_over(night: Scene) -> None:
    night.create(cron=NOON, template=template(night.root, model="whole"))
    night.round()
    other = night.another("another process")
    night.clock.go(days=1)
    seconds = night.api.services.settings.lease_seconds
    assert len(schedule_leases.claim(night.api.services, "the test")) == 1
    night.clock.go(seconds=seconds * 0.9)
    other.round()
    assert night.firings() == []
    night.clock.go(seconds=seconds * 0.2)
    other.round()
    assert night.outcomes() == ["running"]
    other.stop()
    assert schedule_leases.owners(night.api.services.database) == []


def test_sources_that_do_not_answer_are_waited_for(night: Scene) -> None:
    night.create(cron=NOON, template=template(night.root, model="whole"), missed="skip")

    def unreachable(spec: Any) -> Any:
        raise SourceUnreachable("the bucket does not answer", "spec.model.source")

    broken = night.another("the test", resolve=unreachable)
    night.clock.go(days=1)
    for _ in range(40):  # ten minutes: nothing is missed because of that
        broken.round()
        night.clock.go(seconds=15)
    (firing,) = night.firings()
    assert (firing["outcome"], firing["job"]) == ("waiting", None)
    assert night.schedule()["error"] == "the bucket does not answer"
    night.api.client.post("/schedules/nightly/pause")
    night.round(seconds=60)
    assert night.outcomes() == ["waiting"]
    night.api.client.post("/schedules/nightly/resume")
    night.round(seconds=60)
    assert night.outcomes() == ["running"]
    assert night.schedule()["error"] is None

    gone = template(night.root, model="whole")
    gone["spec"]["evaluation"]["perplexity"][0]["source"] = f"file:{night.root}/nowhere.txt"
    night.create(name="gone", cron=NOON, template=gone)
    night.round(days=1)
    (failed,) = night.firings("gone")
    assert (failed["outcome"], failed["job"]) == ("failed", None)
    assert "nowhere.txt does not exist" in failed["reason"]


def test_a_definition_from_elsewhere_stops_nobody_else(night: Scene) -> None:
    night.create(name="strange", cron=NOON, template=template(night.root, model="whole"))
    night.create(name="sound", cron=NOON, template=template(night.root, model="whole"))
    with night.api.services.database.write() as session:
        row = session.scalar(select(Schedule).where(Schedule.name == "strange"))
        assert row is not None
        kept, row.definition = row.definition, "{}"
    night.round(days=1)
    assert night.outcomes("sound") == ["running"]
    with night.api.services.database.write() as session:
        row = session.scalar(select(Schedule).where(Schedule.name == "strange"))
        assert row is not None
        assert "another version" in str(row.error)
        row.definition = kept
    night.round(seconds=1)
    assert night.outcomes("strange") == ["running"]


def test_it_works_in_its_thread(night: Scene, tmp_path: Path) -> None:
    shutil.copytree(night.root / "whole", tmp_path / "arrivals" / "m")
    watch = {"source": f"file:{tmp_path}/arrivals", "ready_marker": "config.json"}
    patient = night.api.services.settings.model_copy(update={"poll_seconds": 3600})
    scheduler = night.another("a thread", settings=patient)
    scheduler.start()
    try:
        night.create(on_new_checkpoint=watch, template=template(night.root))  # wakes it
        deadline = time.monotonic() + 500  # it did not wait for its next look
        while night.outcomes() != ["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        scheduler.stop()
    assert schedule_leases.owners(night.api.services.database) == []
