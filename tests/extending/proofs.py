"""Each addition at work. pytest runs this file in the copy that has all of them, not in the repository."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OlmoConfig

import secateur
from api.docs import pages
from api.settings import Settings
from pipeline.dag.nodes import Dag
from pipeline.dag.plan import plan
from pipeline.errors import InvalidSpec
from pipeline.report.data import ReportDocument
from pipeline.report.page import render_html
from pipeline.report.quantity import human_bytes
from pipeline.report.summary import seeds_of, summary_line
from pipeline.request.prune_spec import PruneSpec
from pipeline.request.schema import request_schema
from tests.api.conftest import free_port, running
from tests.made_pins import made_pins
from tests.models import VOCABULARY, tiny_checkpoint, tiny_documents, tiny_text
from tests.pipeline.report.made_learned import learned_report, learned_spec

pytestmark = pytest.mark.usefixtures("all_opened_here")

HALF = {"kind": "unstructured", "sparsity": 0.5}
TWO_OF_FOUR = {"kind": "nm", "keep": 2, "group": 4}
MINE, TILTED = {"kind": "mine"}, {"kind": "tilted", "by": 0.2}
DUEL = {"kind": "duel", "candidates": [TILTED, {"kind": "owl"}], "samples": 2}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/` and `text.txt`."""
    directory = tmp_path_factory.mktemp("material")
    tiny_checkpoint("llama", directory / "model")
    tiny_text(directory, documents=tiny_documents(count=48, words=160))
    return directory


def pruned(material: Path, out: Path, **prune: Any) -> ReportDocument:
    """The report of a tiny model that was pruned to one half."""
    spec = {
        "calibration": {"source": f"file:{material}/text.txt", "samples": 4, "sequence_length": 32},
        "prune": {"method": {"kind": "wanda"}, "pattern": HALF, **prune},
    }
    report = secateur.prune(material / "model", spec, out, threads=1).report
    assert isinstance(report, ReportDocument)
    assert report.data.sparsity is not None
    assert report.data.sparsity.sparsity == pytest.approx(0.5, abs=1e-3)
    return report


def accepted(model: str, field: str) -> str:
    """The schema of a field of the request, with the names of the kinds that it takes."""
    return json.dumps(request_schema()["$defs"][model]["properties"][field])


def asked(**prune: Any) -> PruneSpec:
    """A spec that prunes as is said."""
    text = {"source": "file:/t/text.txt", "sequence_length": 32}
    return PruneSpec.model_validate(
        {"model": {"source": "file:/m"}, "calibration": {**text, "samples": 4}, "prune": prune}
    )


def planned(spec: PruneSpec) -> Dag:
    """Its stages."""
    return plan(spec, made_pins(spec))


def taught(**training: Any) -> dict[str, Any]:
    """Fields of the second learned method, which begins with masks of the new method."""
    text = {"source": "file:/t/text.txt", "sequence_length": 32}
    return {"kind": "taught", "prior": MINE, "training": {"text": text, "steps": 50, **training}}


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("Prune", "method"),
        ("Sweep", "methods"),
        ("Composed", "mask_from"),
        ("Dsnot", "mask_from"),
        ("MaskLLM", "prior"),
    ],
)
def test_a_method_is_taken_wherever_methods_are(model: str, field: str) -> None:
    assert "/Mine" in accepted(model, field)


@pytest.mark.parametrize(
    "method",
    [MINE, {"kind": "composed", "mask_from": MINE}, {"kind": "dsnot", "mask_from": MINE}],
    ids=lambda method: str(method["kind"]),
)
def test_a_method_prunes_alone_and_in_others(material: Path, tmp_path: Path, method: dict[str, Any]) -> None:
    report = pruned(material, tmp_path / "out", method=method)
    assert summary_line(report.data.spec) == f"{method['kind']} · uniform · unstructured 0.5"


def test_a_method_is_a_prior() -> None:
    method = {**taught(), "kind": "maskllm"}
    dag = planned(asked(method=method, pattern=TWO_OF_FOUR))
    assert dag["prune:prior"].stage.model_dump()["method"] == {"kind": "mine"}
    assert "measure_statistics" not in {node.id for node in dag.nodes}  # it sees what pruned blocks produce
    assert "calibrate" in {node.id for node in dag.nodes}


def test_a_learned_method_is_planned_as_any_other() -> None:
    assert "/Taught" in accepted("Prune", "method")
    assert "/Taught" not in accepted("Sweep", "methods")
    spec = asked(method=taught(), pattern=TWO_OF_FOUR)
    other = asked(method={**taught(), "kind": "maskllm"}, pattern=TWO_OF_FOUR)
    stages = [{node.id: node.stage for node in planned(one).nodes} for one in (spec, other)]
    for both in stages:
        del both["publish"], both["report"]  # they name the method
    assert stages[0] == stages[1]
    assert spec.learns_masks


@pytest.mark.parametrize(
    ("prune", "wrong"),
    [
        ({"allocation": DUEL}, "method taught is trained, and a duel"),
        ({"reconstruction": {}}, "method taught learns masks of the weights as they are"),
        ({"method": taught(objective={"kind": "distillation", "teacher": {"source": "file:/x"}})}, "teacher"),
    ],
)
def test_a_learned_method_is_checked_as_any_other(prune: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        asked(**{"method": taught(), "pattern": TWO_OF_FOUR, **prune})


def test_a_learned_method_follows_patterns_of_groups_only() -> None:
    prune = asked(method=taught(), pattern=HALF).prune
    assert prune is not None
    with pytest.raises(InvalidSpec, match="method taught learns N:M masks"):
        prune.method.check(prune.pattern)


@pytest.mark.servers
def test_the_api_plans_a_learned_method(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, port=free_port(), ray_address="http://127.0.0.1:9")
    prune = {"method": taught(text={"source": "file:/t/text.txt"}), "pattern": TWO_OF_FOUR}
    calibration = {"source": "file:/t/text.txt"}
    with running(settings) as api:
        body = {"spec": {"model": {"source": "file:/m"}, "calibration": calibration, "prune": prune}}
        answer = api.client.post("/plans", json=body)
    assert answer.status_code == 200, answer.text
    given = [one["param"] for one in answer.json()["inputs"]]
    assert "spec.prune.method.training.text.source" in given
    assert [node["stage"] for node in answer.json()["nodes"] if node["node"] == "prune"] == ["learn_masks"]


def test_a_learned_method_is_reported_as_any_other() -> None:
    fields = learned_spec().model_dump(mode="json")
    fields["prune"]["method"]["kind"] = "taught"
    spec = PruneSpec.model_validate(fields)
    assert summary_line(spec) == "taught from wanda · uniform · 2:4 · 2.46M tokens"
    assert seeds_of(spec)["mask learning"] == 7
    page = render_html(learned_report(blocks=2, spec=spec))
    assert "Masks learned" in page
    assert "the masks of wanda, strength 3" in page


@pytest.mark.parametrize(
    ("model", "field"), [("Prune", "allocation"), ("Sweep", "allocations"), ("Tournament", "candidates")]
)
def test_an_allocation_is_taken_wherever_allocations_are(model: str, field: str) -> None:
    assert "/Tilted" in accepted(model, field)


def test_an_allocation_decides_what_becomes_of_the_blocks(material: Path, tmp_path: Path) -> None:
    report = pruned(material, tmp_path / "out", allocation=TILTED)
    assert report.data.plan is not None
    assert report.data.plan.sparsity[-1] - report.data.plan.sparsity[0] == pytest.approx(0.2, abs=1e-6)


def test_a_contest_has_its_entrants_pruned_and_scored(material: Path, tmp_path: Path) -> None:
    assert "/Duel" in accepted("Prune", "allocation")
    assert "/Duel" not in accepted("Tournament", "candidates")
    nodes = [node.id for node in planned(asked(method=MINE, allocation=DUEL, pattern=HALF)).nodes]
    assert [node for node in nodes if node.startswith("allocate")] == ["allocate:0", "allocate:1", "allocate"]
    contest = {**DUEL, "candidates": [TILTED]}
    prune = {"method": {"kind": "magnitude"}, "allocation": contest, "pattern": HALF}
    with pytest.raises(ValueError, match="calibration is missing: allocation duel"):
        PruneSpec.model_validate({"model": {"source": "file:/m"}, "prune": prune})
    report = pruned(material, tmp_path / "out", allocation=DUEL)
    assert report.data.tournament is not None
    assert [entry.allocation.kind for entry in report.data.tournament.entries] == ["tilted", "owl"]


def test_a_section_is_on_the_page_and_in_the_json(material: Path, tmp_path: Path) -> None:
    document = json.loads(pruned(material, tmp_path / "out", method=MINE).model_dump_json())
    size = document["data"]["published_bytes"]
    assert size > 1000
    assert document["summary"]["published_bytes"] == size
    read = ReportDocument.model_validate_json(json.dumps(document))
    page = render_html(read.data)
    assert f"<p>model takes {human_bytes(size)}.</p>" in page
    assert page.index('id="environment"') < page.index('id="disk"') < page.index('id="digests"')
    del document["data"]["published_bytes"], document["summary"]["published_bytes"]  # as stored before it
    assert "Size on disk" not in render_html(ReportDocument.model_validate_json(json.dumps(document)).data)


def test_the_model_type_is_pruned(material: Path, tmp_path: Path) -> None:
    config = OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    shutil.copytree(material / "model", tmp_path / "model")
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    shutil.copy(material / "text.txt", tmp_path)
    pruned(tmp_path, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    weight = model.model.layers[3].mlp.down_proj.weight
    assert int((weight == 0).sum()) * 2 == weight.numel()
    assert "| `olmo` |" in pages()["docs/models.md"]


def test_the_setting_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_COLOUR", "red")
    assert Settings().model_dump()["colour"] == "red"
    assert "| `SECATEUR_COLOUR` | `green` | Colour of the leaves. |" in pages()["docs/settings.md"]
