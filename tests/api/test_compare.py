"""GET /compare and `secateur compare` on jobs whose evaluations are stored."""

import json
import re
from typing import Any

import pytest

from pipeline.artifacts.refs import EvaluationRef, TaskEvaluationRef
from pipeline.evaluation.task_samples import Judged
from pipeline.job.events import JobSucceeded
from pipeline.spec.evaluation import EvaluationResult
from tests.api import played
from tests.api.bodies import body
from tests.api.conftest import RunningApi
from tests.api.terminal import cli, submit
from tests.pipeline.evaluation.made_samples import judged_task
from tests.pipeline.report.made_pairs import windowed

DENSE = "0" * 64
RIGHT = [1.0] * 80 + [0.0] * 20
TASKS = {"evaluation": {"tasks": {"tasks": ["sciq"]}}}


def finished_job(api: RunningApi, *, shift: float, lost: int, device: str = "cpu") -> str:
    """A job that succeeded, with its evaluations in storage."""
    with api.secateur() as client:
        job = client.submit({"spec": {**body()["spec"], **TASKS}, "name": f"loses {lost}"}).id
    content = api.services.content

    def perplexities(result: EvaluationResult) -> EvaluationRef:
        return EvaluationRef.made(content, result)

    def tasks(judged: Judged) -> TaskEvaluationRef:
        assert judged.samples is not None
        return TaskEvaluationRef.made(content, judged.evaluation, judged.samples)

    played.start(api, job)
    pruned = f"{lost:064d}"
    made: dict[str, Any] = {
        "evaluate:dense": {"evaluation": perplexities(windowed(DENSE, shift=0, device=device))},
        "evaluate:pruned": {"evaluation": perplexities(windowed(pruned, shift=shift, device=device))},
        "tasks:dense:sciq": {"tasks": tasks(judged_task(DENSE, "sciq", RIGHT))},
        "tasks:pruned:sciq": {"tasks": tasks(judged_task(pruned, "sciq", [0.0] * lost + RIGHT[lost:]))},
    }
    played.say(api, job, *(played.finished(node, **made[node]) for node in made), JobSucceeded())
    return job


@pytest.fixture
def jobs(api: RunningApi) -> tuple[str, str]:
    return finished_job(api, shift=0.1, lost=5), finished_job(api, shift=0.3, lost=30)


def test_jobs_stand_side_by_side(api: RunningApi, jobs: tuple[str, str]) -> None:
    answer = api.client.get("/compare", params={"job": jobs})
    assert answer.status_code == 200, answer.text
    compared = answer.json()
    assert [job["id"] for job in compared["jobs"]] == list(jobs)
    assert compared["jobs"][0]["final"] == "pruned"
    text, task = compared["figures"]
    assert text["differences"][0]["paired"]["low"] > 0
    assert task["values"] == pytest.approx([0.75, 0.5])
    paired = task["differences"][0]["paired"]
    assert (paired["test"], paired["units"]) == ("mcnemar", 100)
    assert paired["p_value"] == pytest.approx(2 / 2**25)
    with api.secateur() as client:
        assert client.compare(jobs).model_dump(mode="json") == compared


def test_the_command_prints_a_table(api: RunningApi, jobs: tuple[str, str]) -> None:
    result = cli("compare", *jobs, url=api.url)
    assert result.exit_code == 0, result.output
    for job in jobs:
        assert job in result.stdout
    assert "B - A" in result.stdout
    assert re.search(r"sciq, acc +0.8000 +0.7500 +0.5000 +-0.25 \(", result.stdout)
    assert "p < 0.001" in result.stdout
    as_json = cli("compare", *jobs, "--json", url=api.url)
    assert json.loads(as_json.stdout)["object"] == "comparison"


def test_unequal_contracts_are_refused_by_job_and_field(api: RunningApi, jobs: tuple[str, str]) -> None:
    other = finished_job(api, shift=0.1, lost=6, device="NVIDIA H200")
    answer = api.client.get("/compare", params={"job": [jobs[0], other]})
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("unequal_contracts", "job", "conflict_error")
    assert f"device is cpu for {jobs[0]} and NVIDIA H200 for {other}" in error["message"]
    result = cli("compare", jobs[0], other, url=api.url)
    assert result.exit_code == 1
    assert "NVIDIA H200" in result.stderr


def test_what_cannot_be_compared_is_named(api: RunningApi, jobs: tuple[str, str]) -> None:
    queued = submit(api)
    unknown = f"job-{'0' * 20}"
    expected = {
        (jobs[0], queued): (409, "job_not_succeeded", queued),
        (jobs[0], unknown): (404, "job_not_found", unknown),
        (jobs[0], jobs[0]): (422, "invalid_parameter", "twice"),
        (jobs[0],): (422, "invalid_parameter", "job"),
        (jobs[0], "nonsense"): (422, "invalid_parameter", "job"),
    }
    for asked, (status, code, named) in expected.items():
        answer = api.client.get("/compare", params={"job": asked})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
        assert named in answer.json()["error"]["message"]
        assert answer.json()["error"]["param"].partition(".")[0] == "job"


def test_a_sweep_is_no_single_result(api: RunningApi, jobs: tuple[str, str]) -> None:
    text = {"source": "file:/texts/t.txt"}
    with api.secateur() as client:
        swept = {"sweep": {"sparsities": [0.5, 0.6]}, "evaluation": {"perplexity": [text]}}
        job = client.submit({"spec": {**body()["spec"], **swept}}).id
    played.start(api, job)
    played.say(api, job, JobSucceeded())
    answer = api.client.get("/compare", params={"job": [jobs[0], job]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "job_is_a_sweep")
    assert job in answer.json()["error"]["message"]


def test_jobs_with_nothing_in_common_are_told_apart(api: RunningApi, jobs: tuple[str, str]) -> None:
    empty = EvaluationRef.made(api.services.content, EvaluationResult(checkpoint_digest=DENSE))
    job = submit(api)
    played.start(api, job)
    made = [played.finished(f"evaluate:{which}", evaluation=empty) for which in ("dense", "pruned")]
    played.say(api, job, *made, JobSucceeded())
    answer = api.client.get("/compare", params={"job": [jobs[0], job]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "nothing_to_compare")
    assert f"{job}: nothing" in answer.json()["error"]["message"]


def test_strangers_are_not_answered(api: RunningApi, jobs: tuple[str, str]) -> None:
    assert api.anonymous.get("/compare", params={"job": jobs}).status_code == 401
