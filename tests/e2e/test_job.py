"""A whole job through the real API on a real Ray, judged from outside with plain transformers."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

import secateur
from api.service.jobs.views import ArtifactView, JobView
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e

TASKS = ("trees", "garden", "apples")


def request(material: Path, model: str, *, workers: int = 2, **changes: object) -> dict:
    """OWL and Wanda at one half, judged on 8 windows. A second worker takes as long to start as all stages of
    a tiny model: only tests that are about several workers, or that kill one, ask for it."""
    text = f"file:{material}/text.txt"
    spec = {
        "model": {"source": f"file:{material}/{model}"},
        "calibration": {"source": text, "samples": 12, "sequence_length": 48},
        "prune": {
            "method": {"kind": "wanda"},
            "allocation": {"kind": "owl", "multiplier": 3, "spread": 0.05},
            "pattern": {"kind": "unstructured", "sparsity": 0.5},
        },
        "evaluation": {
            "perplexity": [{"source": text, "sequence_length": 64, "windows": 8, "bos": "none"}],
        },
        **changes,
    }
    return {
        "spec": spec,
        "resources": {"workers": workers, "memory_per_worker": "1GiB"},
        "labels": {"suite": "e2e"},
    }


def with_tasks(body: dict, material: Path) -> dict:
    """The same, judged by lm-eval too."""
    asked = ["trees", {"name": "garden", "limit": 3}, {"name": "apples", "num_fewshot": 1}]
    tasks = {"include": f"file:{material}/tasks", "tasks": asked, "batch_size": 4}
    evaluation = {**body["spec"]["evaluation"], "tasks": tasks}
    return {**body, "spec": {**body["spec"], "evaluation": evaluation}}


def finished(service: Service, body: dict) -> JobView:
    with service.client() as client:
        return client.wait(client.submit(body).id)


def artifacts(service: Service, job: JobView) -> dict[tuple[str, str], ArtifactView]:
    with service.client() as client:
        return {(one.node, one.artifact): one for one in client.artifacts(job.id).data}


@pytest.fixture(scope="module")
def job(local_service: Service, material: Path) -> JobView:
    done = finished(local_service, with_tasks(request(material, "llama"), material))
    assert done.status == "succeeded", done.error
    return done


@pytest.fixture(scope="module")
def published(local_service: Service, job: JobView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published directory, downloaded through the API."""
    directory = tmp_path_factory.mktemp("published")
    with local_service.client() as client:
        for file in artifacts(local_service, job)["verify", "manifest"].files:
            (directory / file.path).parent.mkdir(exist_ok=True)
            (directory / file.path).write_bytes(b"".join(client.file(file)))
    return directory


def test_every_stage_is_seen(job: JobView) -> None:
    assert job.progress == 1
    assert {stage.node: stage.status for stage in job.stages} == dict.fromkeys(
        (
            "import_model",
            "check_tasks",
            "calibrate",
            "measure_statistics",
            "measure_blocks",
            "allocate",
            "prune",
            "evaluate:dense",
            "evaluate:pruned",
            *(f"tasks:{which}:{name}" for which in ("dense", "pruned") for name in TASKS),
            "publish",
            "verify",
            "report",
        ),
        "succeeded",
    )
    prune = next(stage for stage in job.stages if stage.node == "prune")
    assert prune.done == prune.total == 4


def test_the_library_gives_the_same_bits(published: Path, material: Path, tmp_path: Path) -> None:
    """Two workers on Ray with one thread each, and one process without Ray."""
    body = with_tasks(request(material, "llama"), material)
    spec = {name: part for name, part in body["spec"].items() if name != "model"}
    pruned = secateur.prune(material / "llama", spec, tmp_path / "out", threads=1)
    made = {path.relative_to(published) for path in published.rglob("*") if path.is_file()}
    files = {path.relative_to(tmp_path / "out") for path in pruned.directory.rglob("*") if path.is_file()}
    assert files == made | {Path(name) for name in ("provenance.json", "report.html", "report.json")}
    differ = {
        str(path)
        for path in made
        if (published / path).read_bytes() != (pruned.directory / path).read_bytes()
    }
    # They tell where they were made, and with how much memory they were opened.
    assert differ <= {"manifest.json", "secateur.json", "README.md", "verification.json"}


def test_what_is_published_is_an_ordinary_checkpoint(published: Path, material: Path) -> None:
    config = json.loads((published / "config.json").read_text())
    assert config == json.loads((material / "llama" / "config.json").read_text())
    assert (
        "sparsity_config"
        not in (published / "config.json").read_text() + (published / "secateur.json").read_text()
    )
    model = AutoModelForCausalLM.from_pretrained(published)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert AutoTokenizer.from_pretrained(published)("a quiet orchard")["input_ids"]
    manifest = json.loads((published / "manifest.json").read_text())["files"]
    for entry in manifest:
        assert hashlib.sha256((published / entry["path"]).read_bytes()).hexdigest() == entry["sha256"]
    listed = {entry["path"] for entry in manifest} | {"manifest.json"}
    assert listed == {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}


def test_the_zeros_are_the_planned_ones(published: Path) -> None:
    side = json.loads((published / "secateur.json").read_text())
    weights = dict(AutoModelForCausalLM.from_pretrained(published).named_parameters())
    total = zeros = 0
    for linear in side["linears"]:
        weight = weights[f"model.layers.{linear['block']}.{linear['linear']}.weight"]
        planned = side["plan"]["zeros"][linear["block"]][linear["linear"]]
        assert int((weight == 0).sum()) == linear["zeros"] == planned
        total += weight.numel()
        zeros += planned
    assert zeros == round(total / 2)
    per_block = [block["sparsity"] for block in side["plan"]["blocks"]]
    assert max(per_block) - min(per_block) == pytest.approx(0.1, abs=1e-9)


@torch.no_grad()
def test_perplexities_are_those_of_plain_transformers(
    published: Path, material: Path, local_service: Service, job: JobView
) -> None:
    with local_service.client() as client:
        data = client.report(job.id).data
    tokenizer = AutoTokenizer.from_pretrained(material / "llama")
    ids = tokenizer((material / "text.txt").read_text(), add_special_tokens=False)["input_ids"]
    windows = torch.tensor(ids[: 8 * 64]).reshape(8, 64)
    for directory, result in ((material / "llama", data.dense), (published, data.pruned)):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        losses = [
            functional.cross_entropy(model(input_ids=window[None]).logits[0, :-1], window[1:]).item()
            for window in windows
        ]
        assert result.perplexity[0].perplexity == pytest.approx(math.exp(sum(losses) / 8), rel=1e-5)


def test_the_same_job_again_finds_everything(local_service: Service, material: Path, job: JobView) -> None:
    body = with_tasks(request(material, "llama"), material)
    with local_service.client() as client:
        plan = client.plan(body)
    again = finished(local_service, body)
    assert again.id != job.id
    assert again.status == "succeeded"
    assert {s.node: s.status for s in again.stages if s.node != "report"} == {
        s.node: "cached" for s in job.stages if s.node != "report"
    }
    assert {node.node: node.cached for node in plan.nodes} == {s.node: s.node != "report" for s in job.stages}


def test_another_sparsity_shares_what_does_not_depend_on_it(
    local_service: Service, material: Path, job: JobView
) -> None:
    body = request(material, "llama", workers=1)
    body["spec"]["prune"] = {
        "method": {"kind": "magnitude"},
        "allocation": {"kind": "uniform"},
        "pattern": {"kind": "nm", "keep": 2, "group": 4},
    }
    done = finished(local_service, body)
    assert done.status == "succeeded", done.error
    status = {stage.node: stage.status for stage in done.stages}
    assert status["import_model"] == status["evaluate:dense"] == "cached"
    assert status["prune"] == status["evaluate:pruned"] == "succeeded"
    assert not {"measure_statistics", "measure_blocks"} & set(status)


def test_lm_eval_judges_both_models(local_service: Service, job: JobView) -> None:
    """Two sets and a group of them, in the places of the two workers; the figures are lm-eval's own."""
    counted = {stage.node: (stage.done, stage.total, stage.unit) for stage in job.stages}
    assert counted["tasks:dense:trees"] == (8, 8, "request")  # 4 questions with 2 choices
    assert counted["tasks:pruned:garden"] == (12, 12, "request")
    with local_service.client() as client:
        summary = client.report(job.id).summary
        listed = client.artifacts(job.id).data
        raw = next(one for one in listed if (one.node, one.artifact) == ("tasks:dense:trees", "harness"))
        written = json.loads(b"".join(client.file(raw.files[0])))
    rows = {(row.task, row.group): row for row in summary.tasks if row.metric == "acc"}
    assert list(rows) == [
        ("trees", None),
        ("garden", None),
        ("trees", "garden"),
        ("apples", "garden"),
        ("apples", None),
    ]
    assert rows["trees", None].dense == written["results"]["trees"]["acc,none"]
    assert (rows["apples", None].num_fewshot, rows["apples", None].samples) == (1, 4)
    assert (rows["garden", None].limit, rows["garden", None].samples) == (3, 6)
    assert not rows["trees", "garden"].main


def test_the_report_is_one_page_and_one_document(local_service: Service, job: JobView) -> None:
    with local_service.client() as client:
        document = client.report(job.id)
        page = client.report_html(job.id).decode()
    assert document.summary.achieved_sparsity == pytest.approx(0.5, abs=1e-3)
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_logs_tell_what_the_driver_did(local_service: Service, job: JobView) -> None:
    with local_service.client() as client:
        text = "".join(client.logs(job.id))
    assert "stage prune: 4 of 4 block" in text


UNDIVIDED = {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 7}}
TOO_WIDE = {
    "method": {"kind": "wanda"},
    "allocation": {"kind": "owl", "multiplier": 3, "nm_spread": 12},
    "pattern": {"kind": "nm", "keep": 2, "group": 8},
}


@pytest.mark.parametrize(
    ("prune", "code", "param"),
    [
        (UNDIVIDED, "invalid_spec", "spec.prune.pattern.group"),
        (TOO_WIDE, "infeasible_plan", "spec.prune.allocation.nm_spread"),
    ],
)
def test_what_only_the_run_can_know_fails_at_once_with_the_field(
    local_service: Service, material: Path, prune: dict, code: str, param: str
) -> None:
    done = finished(local_service, request(material, "llama", workers=1, prune=prune))
    assert done.status == "failed"
    assert done.attempt == 1  # nothing to be gained by another
    assert done.error is not None
    assert (done.error.code, done.error.param) == (code, param)
    assert done.error.log


def test_resources_that_the_cluster_lacks_are_named(local_service: Service, material: Path) -> None:
    body = request(material, "llama", calibration=None, prune=UNDIVIDED)
    body["resources"] |= {"workers": 50, "placement_timeout_seconds": 1}
    done = finished(local_service, body)
    assert done.error is not None
    assert (done.error.code, done.error.param) == ("resources_unavailable", "resources.workers")
    assert "50 workers" in done.error.message
