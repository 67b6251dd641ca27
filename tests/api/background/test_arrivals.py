"""Checkpoints arrive: file by file in a bucket, while cron or a person waits, and changing until the end."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.db.models import Firing
from api.settings import Settings
from pipeline.sources import SourceAccess
from pipeline.storage import S3Options, open_store
from tests.api.scheduling import NOON, PASSES, Scene, scene, template
from tests.servers import S3Server

pytestmark = pytest.mark.servers


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
