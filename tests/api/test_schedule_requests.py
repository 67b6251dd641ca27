"""Schedules over HTTP: made, found, changed, paused, deleted, and refused with the field to change."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml

from api.docs import ROOT
from api.examples import SCHEDULE_EXAMPLES
from api.service.schedules.request import ScheduleRequest
from api.settings import Settings
from tests.api.bodies import body
from tests.api.conftest import free_port, running
from tests.api.scheduling import NOON, Scene

WATCH = {"source": "s3://checkpoints/nightly"}


pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One API for all of this."""
    root = tmp_path_factory.mktemp("place")
    settings = Settings(
        state_dir=root / "state",
        port=free_port(),
        ray_address="http://127.0.0.1:9",
        allowed_roots=(root / "models",),
        storage_url="s3://checkpoints/secateur/store",
    )
    with running(settings) as api:
        yield Scene(api, root)


@pytest.fixture
def clean(place: Scene) -> Iterator[Scene]:
    """No schedules before, none after."""
    yield place
    for schedule in place.api.client.get("/schedules").json()["data"]:
        assert place.api.client.delete(f"/schedules/{schedule['id']}").status_code == 204


def template(**evaluation: Any) -> dict[str, Any]:
    made = deepcopy(body())
    del made["spec"]["model"]
    made["spec"]["evaluation"] = evaluation
    return made


TEXT = {"source": "file:/texts/wiki.txt", "name": "wiki"}


def test_from_making_to_deleting(clean: Scene) -> None:
    client = clean.api.client
    gates = ["perplexity<=1.2*dense", "mmlu_law  >= dense - .02"]
    evaluation = {"perplexity": [TEXT], "tasks": {"tasks": ["mmlu"]}}
    answer = client.post(
        "/schedules",
        json={
            "name": "Nightly",
            "on_new_checkpoint": WATCH,
            "template": template(**evaluation),
            "gates": gates,
        },
    )
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/schedules/{made['id']}"
    assert made["gates"] == ["perplexity<=1.2*dense", "mmlu_law >= dense - .02"]
    assert made["on_new_checkpoint"] == WATCH | {
        "ready_marker": None,
        "look_seconds": 60,
        "existing": "start",
    }
    assert (made["missed"], made["overlap"], made["paused"], made["alias"]) == (
        "run_once",
        "queue",
        False,
        None,
    )
    assert (made["next_at"], made["looked_at"], made["last_firing"], made["candidates"]) == (
        None,
        None,
        None,
        [],
    )
    assert client.get("/schedules/Nightly").json() == client.get(f"/schedules/{made['id']}").json() == made

    again = client.post("/schedules", json={"name": "Nightly", "cron": NOON, "template": body()})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "schedule_exists")
    absent = client.get("/schedules/nihgtly")
    assert absent.status_code == 404
    assert "did you mean 'Nightly'?" in absent.json()["error"]["message"]

    second = clean.create(name="second", cron=NOON, template=body())
    page = client.get("/schedules?limit=1").json()
    assert [one["name"] for one in page["data"]] == ["second"]
    rest = client.get(f"/schedules?limit=1&after={page['next']}").json()
    assert ([one["name"] for one in rest["data"]], rest["has_more"]) == (["Nightly"], False)

    paused = client.post("/schedules/second/pause").json()
    assert (paused["paused"], paused["next_at"]) == (True, None)
    assert [one["name"] for one in client.get("/schedules?paused=true").json()["data"]] == ["second"]
    clean.clock.go(days=10)
    resumed = client.post("/schedules/second/resume").json()
    assert (resumed["paused"], resumed["next_at"]) == (False, second["next_at"] + 10 * 24 * 3600)
    hourly = {"expression": "0 * * * *", "timezone": "Europe/Berlin"}
    changed = client.patch(
        "/schedules/second", json={"name": "third", "cron": hourly, "alias": "prod"}
    ).json()
    assert (changed["id"], changed["name"], changed["cron"], changed["alias"]) == (
        *(second["id"], "third", hourly, "prod"),
    )
    assert changed["next_at"] == resumed["next_at"] - 23 * 3600
    assert changed["updated_at"] == int(clean.clock().timestamp())
    assert changed["template"] == second["template"]
    assert client.patch("/schedules/third", json={"alias": None}).json()["alias"] is None
    assert client.patch("/schedules/third", json={"name": "Nightly"}).status_code == 409

    assert client.delete("/schedules/third").status_code == 204
    assert client.delete("/schedules/third").status_code == 404
    assert client.get("/schedules/third/firings").status_code == 404


def swept() -> dict[str, Any]:
    """One whose spec is a sweep."""
    asked = body()
    return {**asked, "spec": {**asked["spec"], "sweep": {"sparsities": [0.5, 0.6]}}}


CASES: list[tuple[dict[str, Any], str, str]] = [
    ({}, "template", "is missing"),
    ({"template": body()}, "cron", "give cron"),
    (
        {"template": template(), "cron": NOON},
        "template.spec.model",
        "cron says when to prune, but not which model",
    ),
    ({"template": body(), "on_new_checkpoint": WATCH}, "template.spec.model", "must be left out"),
    ({"template": body(), "cron": {"expression": "0 12 * *"}}, "cron.expression", "write five"),
    ({"template": swept(), "cron": NOON}, "template.spec.sweep", "publishes nothing"),
    (
        {"template": body(), "cron": NOON | {"timezone": "Europe/Belrin"}},
        "cron.timezone",
        "did you mean 'Europe/Berlin'?",
    ),
    (
        {"template": body(), "cron": NOON, "allias": "x"},
        "allias",
        "did you mean 'alias'?; allowed here: name, cron, on_new_checkpoint, template, gates",
    ),
    (
        {"template": template() | {"prioritty": 1}, "on_new_checkpoint": WATCH},
        "template.prioritty",
        "did you mean 'priority'?",
    ),
    (
        {"template": {"spec": {"prune": {"method": {"kind": "wonda"}}}}, "cron": NOON},
        "template.spec.prune.method.kind",
        "did you mean 'wanda'?",
    ),
    (
        {"template": template(), "on_new_checkpoint": {"source": "hub:org/name"}},
        "on_new_checkpoint.source",
        "watch s3://bucket/prefix",
    ),
    (
        {"template": template(), "on_new_checkpoint": WATCH | {"ready_marker": "a/b"}},
        "on_new_checkpoint.ready_marker",
        "pattern",
    ),
    (
        {"template": template(), "on_new_checkpoint": WATCH | {"look_seconds": 0}},
        "on_new_checkpoint.look_seconds",
        "greater than or equal to 1",
    ),
    (
        {"template": template(), "on_new_checkpoint": {"source": "file:/etc"}},
        "on_new_checkpoint.source",
        "does not lie below an allowed root",
    ),
    (
        {"template": template(), "on_new_checkpoint": {"source": "s3://checkpoints"}},
        "on_new_checkpoint.source",
        "would be pruned again",
    ),
    (
        {
            "template": template(),
            "on_new_checkpoint": {"source": "s3://checkpoints/secateur/store/published"},
        },
        "on_new_checkpoint.source",
        "would be pruned again",
    ),
    (
        {"template": body(), "cron": NOON, "gates": ["sparsity > 0", "x =< 1"]},
        "gates.1",
        "write METRIC OP BOUND",
    ),
    (
        {"template": body(), "cron": NOON, "gates": ["perplexity < 30"]},
        "gates.0",
        "add a text to spec.evaluation.perplexity",
    ),
    (
        {
            "template": template(perplexity=[TEXT], tasks={"suite": "openba"}),
            "on_new_checkpoint": WATCH,
            "gates": ["openba >= dense", "hellaswag.acc_norm >= 0.3", "mmlu_law >= 0.1", "helaswag >= 0.3"],
        },
        "gates.3",
        "did you mean 'hellaswag'?",
    ),
    (
        {
            "template": template(perplexity=[TEXT]),
            "on_new_checkpoint": WATCH,
            "gates": ["perplexity.wikki < 9"],
        },
        "gates.0",
        "did you mean 'perplexity.wiki'?",
    ),
    (
        {"template": body(labels={f"label-{i}": "x" for i in range(31)}), "cron": NOON},
        "template.labels",
        "leave 2 of 32 free",
    ),
    ({"name": "a/b", "template": body(), "cron": NOON}, "name", "pattern"),
    ({"name": "sched-" + "0" * 20, "template": body(), "cron": NOON}, "name", "reads as an id"),
    ({"template": body(), "cron": NOON, "overlap": "que"}, "overlap", "did you mean 'queue'?"),
]


@pytest.mark.parametrize(
    ("given", "param", "told"), CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(CASES)]
)
def test_bad_ones_name_the_field_and_the_remedy(
    place: Scene, given: dict[str, Any], param: str, told: str
) -> None:
    answer = place.api.client.post("/schedules", json={"name": "bad", **given})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (422, "invalid_request_error")
    assert error["param"] == param
    assert told in error["message"]
    assert place.api.client.get("/schedules").json()["data"] == []


def test_a_patch_is_checked_as_a_whole(clean: Scene) -> None:
    made = clean.create(cron=NOON, template=body(), gates=["sparsity >= 0.4"])
    for patch, param in (
        ({"cron": None}, "cron"),
        ({"on_new_checkpoint": WATCH}, "template.spec.model"),
        ({"template": None}, "template"),
        ({"name": None}, "name"),
        ({"gates": ["perplexity <= 3"]}, "gates.0"),
        ({"gate": []}, "gate"),
        ({"cron": {"expression": "* *"}}, "cron.expression"),
    ):
        answer = clean.api.client.patch("/schedules/nightly", json=patch)
        assert answer.status_code == 422, patch
        assert answer.json()["error"]["param"] == param
    assert clean.schedule() == made
    assert clean.api.client.patch("/schedules/nightly", json={}).json()["gates"] == ["sparsity >= 0.4"]


def test_the_examples_are_good(clean: Scene) -> None:
    for example in SCHEDULE_EXAMPLES.values():
        given = example["value"]
        made = clean.create(**given)
        assert made["next_at"] is not None
        assert made["alias"] == given.get("alias")


def test_nothing_without_a_key(clean: Scene) -> None:
    anonymous = clean.api.anonymous
    for method, path in (("GET", "/schedules"), ("POST", "/schedules"), ("GET", "/aliases")):
        assert anonymous.request(method, path, json={}).status_code == 401


def test_the_example_of_the_documentation_is_good(clean: Scene) -> None:
    text = (ROOT / "docs" / "schedules.md").read_text()
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    made = clean.create(**(example | {"on_new_checkpoint": WATCH}))
    assert made["gates"] == example["gates"]
    assert ScheduleRequest.model_validate(example).on_new_checkpoint is not None
