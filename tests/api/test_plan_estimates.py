"""POST /plans tells time and memory, and refuses as POST /jobs does what no declared GPU can hold."""

from collections.abc import Callable, Iterator

import pytest

from api.settings import Settings
from pipeline.planning.table import model
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.made_pins import made_pins

RECOVERY = {
    "text": {"source": "file:/texts/books.txt", "sequence_length": 2048},
    "steps": 100,
    "global_batch_size": 8,
    "precision": "bfloat16",
}


@pytest.fixture
def api(make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API that takes every model for one of seven billion weights."""
    with running(make_settings(), resolver=seven_billion) as api:
        yield api


def seven_billion(spec: PruneSpec) -> Pins:
    return made_pins(spec, facts=model("7B")[1])


def test_a_plan_has_estimates(api: RunningApi) -> None:
    asked = {**body(), "resources": {"gpus_per_worker": 1, "memory_per_gpu": "80GiB"}}
    answer = api.client.post("/plans", json=asked)
    assert answer.status_code == 200, answer.text
    found = {one["node"]: one for one in answer.json()["estimates"]}
    assert found["prune"]["device"] == "A100"
    assert found["prune"]["seconds"] > 0
    assert found["prune"]["gpu_memory_bytes"] > 0
    assert set(found["prune"]["parts"]) >= {"read", "solve", "store"}


@pytest.mark.parametrize("path", ["/plans", "/jobs"])
def test_what_cannot_fit_is_refused_before_a_gpu_is_taken(api: RunningApi, path: str) -> None:
    asked = body(resources={"gpus_per_worker": 1, "memory_per_gpu": "80GiB"})
    asked["spec"]["recovery"] = RECOVERY
    answer = api.client.post(path, json=asked)
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["param"] == "resources.memory_per_gpu"
    assert "recover needs at least" in error["message"]
    assert "80GiB" in error["message"]
    assert api.client.get("/jobs").json()["data"] == []


def test_a_size_that_does_not_parse_is_refused(api: RunningApi) -> None:
    answer = api.client.post("/plans", json=body(resources={"memory_per_gpu": "80GB"}))
    assert answer.status_code == 422
    assert "memory_per_gpu" in answer.text
