"""A schedule promotes only what is shown to be good enough."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from api.settings import Settings
from tests.api import played
from tests.api.scheduling import Scene, scene, template
from tests.models import tiny_checkpoint, tiny_text
from tests.pipeline.report.made_pairs import paired_report

GATES = ["perplexity <= dense + 8 at 95%", "sciq >= dense - 0.1 at 95%"]

pytestmark = pytest.mark.servers


@pytest.fixture
def night(database_url: str, make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Scene]:
    tiny_checkpoint("llama", tmp_path / "model")
    tiny_text(tmp_path)
    settings = make_settings(database_url=database_url, allowed_roots=(tmp_path,))
    with scene(settings, tmp_path) as made:
        yield made


@pytest.mark.parametrize(("lost", "outcome"), [(2, "promoted"), (8, "held")])
def test_what_might_be_worse_is_held(night: Scene, lost: int, outcome: str) -> None:
    """Two answers of a hundred were lost, which is less than 0.1 for sure; eight are so by chance only."""
    body = template(night.root, model="model")
    body["spec"]["evaluation"]["tasks"] = {"tasks": ["sciq"]}
    made = night.create(cron={"expression": "0 2 * * *"}, template=body, gates=GATES, alias="best")
    assert made["gates"] == GATES
    night.round(hours=15)
    (job,) = night.jobs()
    played.start(night.api, job["id"])
    night.succeed(job["id"], paired_report(lost=lost))
    night.round(minutes=1)
    (firing,) = night.firings()
    assert firing["outcome"] == outcome
    verdicts = {verdict["metric"]: verdict for verdict in firing["gates"]}
    assert verdicts["perplexity.wiki.txt"]["passed"]
    assert verdicts["sciq.acc"]["passed"] is (outcome == "promoted")
    assert verdicts["sciq.acc"]["final"] == pytest.approx(0.8 - lost / 100)
    assert verdicts["sciq.acc"]["certain"] < verdicts["sciq.acc"]["final"]


def test_windows_that_cannot_be_paired_are_refused_with_the_schedule(night: Scene) -> None:
    body = template(night.root, model="model")
    body["spec"]["structure"] = {
        "vocabulary": {
            "size": 300,
            "texts": [{"source": f"file:{night.root}/text.txt"}],
            "held_out": {"source": f"file:{night.root}/text.txt"},
        }
    }
    given = {"name": "nightly", "cron": {"expression": "0 2 * * *"}, "template": body, "gates": GATES[:1]}
    refused = night.api.client.post("/schedules", json=given)
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "gates.0"
    assert "cuts texts into other windows" in refused.json()["error"]["message"]
