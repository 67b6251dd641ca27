"""Schedules at work, on both databases: what fires, what is left out, what is promoted."""

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.db.models import Firing, Schedule
from api.service.schedules import leases as schedule_leases
from api.settings import Settings
from pipeline.errors import SourceUnreachable, StorageUnavailable
from pipeline.sources import SourceAccess
from pipeline.storage import ContentStore, S3Options, open_store
from tests.api import played
from tests.api.scheduling import START, Scene, scene, template
from tests.models import tiny_checkpoint, tiny_text
from tests.servers import S3Server

NOON = {"expression": "0 12 * * *"}
PASSES, HOLDS = "perplexity <= 3 * dense", "perplexity <= 1.2 * dense"


pytestmark = pytest.mark.servers


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, one in shards, and a text."""
    root = tmp_path_factory.mktemp("models")
    tiny_checkpoint("llama", root / "sharded", max_shard_size="100KB")
    tiny_checkpoint("llama", root / "whole", seed=1)
    tiny_text(root)
    return root


@pytest.fixture
def night(
    database_url: str, make_settings: Callable[..., Settings], models: Path, tmp_path: Path
) -> Iterator[Scene]:
    """A scene; checkpoints may also arrive below `tmp_path/arrivals`."""
    roots = (models, tmp_path / "arrivals")
    with scene(make_settings(database_url=database_url, allowed_roots=roots), models) as made:
        yield made


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


def test_gates_decide_whether_the_alias_moves(night: Scene) -> None:
    night.create(
        cron=NOON,
        template=template(night.root, model="whole"),
        gates=[PASSES, "sparsity >= 0.4"],
        alias="prod",
    )
    for _ in range(5):
        night.round(days=1)
    first, second, third, fourth, fifth = (firing["job"] for firing in night.firings())
    assert night.api.client.get("/aliases").json()["data"] == []

    night.succeed(second)
    night.round(seconds=1)
    alias = night.api.client.get("/aliases/prod").json()
    assert (alias["job"], alias["moved_by"]) == (second, "nightly")
    assert alias["moved_at"] == int(night.clock().timestamp())
    assert night.pointer("prod") == alias
    promoted = night.firings()[1]
    assert (promoted["outcome"], promoted["reason"]) == ("promoted", None)
    assert [(g["gate"], g["passed"]) for g in promoted["gates"]] == [
        (PASSES, True),
        ("sparsity >= 0.4", True),
    ]
    assert promoted["gates"][0]["final"] == pytest.approx(43.16, abs=0.01)

    night.succeed(first)  # an older job that is done later
    played.fail(night.api, third)
    night.api.client.post(f"/jobs/{fourth}/cancel")
    night.round(seconds=1)
    assert night.outcomes() == ["held", "promoted", "failed", "cancelled", "running"]
    assert night.firings()[0]["reason"] == f"prod points at a newer result already, that of {second}"
    assert night.firings()[2]["reason"] == "the loss is not finite"
    assert night.pointer("prod") == alias

    assert night.api.client.patch("/schedules/nightly", json={"gates": [PASSES, HOLDS]}).status_code == 200
    night.succeed(fifth)
    night.round(seconds=1)
    held = night.firings()[-1]
    assert held["outcome"] == "held"
    assert held["reason"].startswith("perplexity.wiki.txt 43.1")
    assert [g["passed"] for g in held["gates"]] == [True, False]
    assert night.pointer("prod") == alias

    night.api.client.patch("/schedules/nightly", json={"gates": []})
    night.api.client.post(f"/jobs/{third}/retry")
    night.round(seconds=1)
    assert night.firings()[2]["outcome"] == "running"
    night.succeed(third)
    night.round(seconds=1)
    assert night.firings()[2]["outcome"] == "promoted"
    assert (night.pointer("prod") or {})["job"] == third

    assert night.api.client.delete("/schedules/nightly").status_code == 204
    assert night.api.client.get("/aliases/prod").json()["job"] == third
    assert len(night.jobs()) == 5
    assert "did you mean 'prod'?" in night.api.client.get("/aliases/prd").text


def test_killed_between_the_pointer_and_the_commit(night: Scene) -> None:
    night.create(cron=NOON, template=template(night.root, model="whole"), alias="prod")
    night.round(days=1)
    job = night.firings()[0]["job"]
    night.succeed(job)

    class Dies:
        """Stores, and is gone."""

        def __init__(self, store: Any) -> None:
            self.inner = store

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def put(self, key: str, chunks: Any) -> None:
            self.inner.put(key, chunks)
            raise SystemExit("kill -9")

    content = ContentStore(Dies(night.api.services.content.store))  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        night.another("the test", content=content).round()
    assert (night.pointer("prod") or {})["job"] == job
    assert night.outcomes() == ["running"]
    assert night.api.client.get("/aliases").json()["data"] == []
    night.round(seconds=1)
    assert night.outcomes() == ["promoted"]
    assert night.api.client.get("/aliases/prod").json() == night.pointer("prod")


def test_reports_that_cannot_be_read(night: Scene) -> None:
    night.create(cron=NOON, template=template(night.root, model="whole"), gates=[PASSES], alias="prod")
    night.round(days=1)
    night.round(days=1)
    first, second = (firing["job"] for firing in night.firings())
    night.succeed(first)

    class Away:
        """Answers nothing."""

        def stat(self, key: str) -> None:
            raise StorageUnavailable("the bucket is away")

    content = ContentStore(Away())  # type: ignore[arg-type]
    night.another("the test", content=content).round()
    assert night.outcomes() == ["running", "running"]
    assert night.schedule()["error"] == "the bucket is away"
    played.say(night.api, second, *played.succeeding(night.api.services.content)[-1:])  # without a report
    night.round(seconds=1)
    assert night.outcomes() == ["promoted", "held"]
    assert "has no report" in night.firings()[1]["reason"]
    assert night.schedule()["error"] is None


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


def test_a_checkpoint_arrives_in_a_bucket_file_by_file(
    database_url: str,
    make_settings: Callable[..., Settings],
    models: Path,
    seaweedfs_server: S3Server,
    tmp_path: Path,
) -> None:
    bucket = f"arrivals-{tmp_path.name.replace('_', '-').lower()[-40:]}"
    seaweedfs_server.make_bucket(bucket)
    server = seaweedfs_server
    settings = make_settings(
        database_url=database_url,
        allowed_roots=(models,),
        s3=server.options,
    )
    store = open_store(f"s3://{bucket}", server.options)

    def upload(name: str, path: Path) -> None:
        store.put(name, [path.read_bytes()])

    with scene(settings, models) as night:
        night.create(
            on_new_checkpoint={"source": f"s3://{bucket}/nightly", "look_seconds": 60},
            template=template(models),
            gates=[PASSES],
            alias="nightly",
        )
        night.round()
        assert night.states() == {}
        for path in sorted(
            (models / "sharded").iterdir(), key=lambda p: (p.name == "tokenizer.json", p.name)
        ):
            upload(f"nightly/run-7/step-100/{path.name}", path)
            night.round(seconds=60)  # a look after each of them, and nothing else moves
            if path.name != "tokenizer.json":
                assert set(night.states().values()) <= {"incomplete"}
            assert night.jobs() == []
        assert night.states() == {"step-100": "settling"}
        night.round(seconds=59)
        assert night.jobs() == []
        night.round(seconds=1)
        (job,) = night.jobs()
        assert job["model"] == f"s3://{bucket}/nightly/run-7/step-100"
        assert job["labels"] == {"schedule": "nightly", "checkpoint": "step-100"}
        assert job["name"] == "nightly step-100"
        assert night.states() == {"step-100": "known"}

        for path in (models / "sharded").iterdir():  # the same again, and elsewhere
            upload(f"nightly/run-7/step-100/{path.name}", path)
            upload(f"nightly/copies/latest/{path.name}", path)
        for _ in range(3):
            night.round(seconds=60)
        assert len(night.jobs()) == 1
        assert night.states() == {"step-100": "known", "latest": "known"}

        config = (models / "whole" / "config.json").read_text().replace('"llama"', '"lama"')
        for path in (models / "whole").iterdir():
            upload(f"nightly/run-7/step-200/{path.name}", path)
            upload(f"nightly/run-8/{path.name}", path)
        store.put("nightly/run-8/config.json", [config.encode()])
        for _ in range(3):
            night.round(seconds=60)
        assert night.states()["run-8"] == "unusable"
        assert len(night.jobs()) == 2
        assert [f["cause"] for f in night.firings()] == ["checkpoint", "checkpoint"]
        for job in night.jobs():
            night.succeed(job["id"])
        night.round(seconds=1)
        assert night.outcomes() == ["promoted", "promoted"]
        assert (night.pointer("nightly") or {})["job"] == night.jobs()[1]["id"]

        away = SourceAccess(s3=S3Options(endpoint_url="http://127.0.0.1:9", access_key="x", secret_key="y"))
        night.clock.go(seconds=60)
        night.another("the test", access=away).round()
        assert "cannot be reached" in night.schedule()["error"]
        assert len(night.schedule()["candidates"]) == 4
        night.round(seconds=60)
        assert night.schedule()["error"] is None


def test_new_checkpoints_wait_for_crons_moment(night: Scene, tmp_path: Path) -> None:
    arrivals = tmp_path / "arrivals"
    night.create(
        cron=NOON,
        on_new_checkpoint={"source": f"file:{arrivals}", "ready_marker": "DONE"},
        template=template(night.root),
        overlap="cancel",
    )
    night.round(days=1)
    assert night.firings() == []
    for name in ("step-200", "step-1000"):
        shutil.copytree(night.root / ("whole" if name == "step-200" else "sharded"), arrivals / name)
    night.round(hours=1)
    assert night.states() == {"step-200": "settling", "step-1000": "settling"}
    for name in ("step-200", "step-1000"):
        (arrivals / name / "DONE").touch()
    night.round(hours=1)
    assert night.states() == {"step-200": "ready", "step-1000": "ready"}
    assert night.jobs() == []
    night.round(hours=22)
    assert [(f["cause"], f["outcome"]) for f in night.firings()] == [("cron", "running")] * 2
    assert [job["model"].rpartition("/")[2] for job in night.jobs()] == ["step-200", "step-1000"]
    assert [job["status"] for job in night.jobs()] == ["cancelled", "queued"]  # the newest goes on
    night.round(hours=24)
    assert len(night.jobs()) == 2


def test_a_person_says_now(night: Scene, tmp_path: Path) -> None:
    arrivals = tmp_path / "arrivals"
    shutil.copytree(night.root / "whole", arrivals / "old")
    night.create(
        on_new_checkpoint={"source": f"file:{arrivals}", "existing": "ignore", "ready_marker": "DONE"},
        template=template(night.root),
        overlap="skip",
    )
    night.round()
    assert night.outcomes() == ["skipped"]
    assert night.states() == {"old": "known"}
    shutil.copytree(night.root / "sharded", arrivals / "new")
    shutil.copytree(night.root / "sharded", arrivals / "half")
    (arrivals / "half" / "config.json").unlink()
    night.round(seconds=60)
    assert night.states() == {"old": "known", "new": "settling", "half": "incomplete"}

    answer = night.api.client.post("/schedules/nightly/run")
    assert answer.status_code == 202, answer.text
    fired = answer.json()["data"]
    assert [(f["cause"], f["outcome"], f["source"].rpartition("/")[2]) for f in fired] == [
        ("manual", "running", "old"),
        ("manual", "running", "new"),
    ]
    assert night.api.client.post("/schedules/nightly/run").json()["data"] == []
    night.round(seconds=60)
    assert len(night.jobs()) == 2
    assert night.states() == {"old": "known", "new": "known", "half": "incomplete"}

    night.create(name="weekly", cron=NOON, template=template(night.root, model="whole"), paused=True)
    for _ in range(2):
        (firing,) = night.api.client.post("/schedules/weekly/run").json()["data"]
        assert (firing["cause"], firing["due_at"], firing["outcome"]) == ("manual", None, "running")
    bad = template(night.root, model="nowhere")
    assert night.api.client.patch("/schedules/weekly", json={"template": bad}).status_code == 200
    refused = night.api.client.post("/schedules/weekly/run")
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "template.spec.model.source"
    assert len(night.firings("weekly")) == 2


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


def test_what_changes_before_its_job_is_made_settles_again(night: Scene, tmp_path: Path) -> None:
    arrivals = tmp_path / "arrivals"
    shutil.copytree(night.root / "whole", arrivals / "m")
    night.create(on_new_checkpoint={"source": f"file:{arrivals}"}, template=template(night.root))
    night.round()
    pins = night.api.services.resolve

    def too_late(spec: Any) -> Any:
        (arrivals / "m" / "generation_config.json").write_text("{}")
        return pins(spec)

    night.clock.go(seconds=60)
    night.another("the test", resolve=too_late).round()
    assert (night.firings(), night.jobs(), night.states()) == ([], [], {})
    night.round(seconds=60)
    assert night.states() == {"m": "settling"}
    night.round(seconds=60)
    (firing,) = night.firings()
    assert firing["outcome"] == "running"
    with night.api.services.database.read() as session:
        assert session.scalar(select(Firing.digest)) == firing["digest"]
    shutil.rmtree(arrivals / "m")
    night.round(seconds=60)
    assert night.states() == {}


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
        assert "not understood" in str(row.error)
        row.definition = kept
    night.round(seconds=1)
    assert night.outcomes("strange") == ["running"]


def test_it_works_in_its_thread(night: Scene, tmp_path: Path) -> None:
    shutil.copytree(night.root / "whole", tmp_path / "arrivals" / "m")
    watch = {"source": f"file:{tmp_path}/arrivals", "ready_marker": "config.json"}
    patient = night.api.services.settings.model_copy(update={"poll_seconds": 60})
    scheduler = night.another("a thread", settings=patient)
    scheduler.start()
    try:
        night.create(on_new_checkpoint=watch, template=template(night.root))  # wakes it
        deadline = time.monotonic() + 50
        while night.outcomes() != ["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        scheduler.stop()
    assert schedule_leases.owners(night.api.services.database) == []
