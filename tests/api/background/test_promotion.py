"""Gates decide whether an alias moves; a death in between and a report that cannot be read lose nothing."""

from typing import Any

import pytest

from pipeline.errors import StorageUnavailable
from pipeline.storage import ContentStore
from tests.api import played
from tests.api.scheduling import NOON, PASSES, Scene, template

HOLDS = "perplexity <= 1.2 * dense"

pytestmark = pytest.mark.servers


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
