"""The figures of a whole job: where they come from, and how certain their differences are."""

import json
from pathlib import Path

import pytest

import secateur
from pipeline.report.data import ReportDocument
from pipeline.report.gate_grammar import parse
from pipeline.report.gates import check_gate
from pipeline.report.sweep import SweepDocument
from tests.models import tiny_checkpoint, tiny_documents, tiny_text
from tests.workers.stage_runs import question_file

pytestmark = pytest.mark.usefixtures("opened_here")

QUESTIONS = 12


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model/`, `text.txt`, and `tasks/` with one question set."""
    directory = tmp_path_factory.mktemp("figures")
    tiny_checkpoint("llama", directory / "model")
    tiny_text(directory, documents=tiny_documents(count=48, words=160))
    tasks = directory / "tasks"
    tasks.mkdir()
    rows = [{"q": f"What is {i}?", "right": i % 2} for i in range(QUESTIONS)]
    (tasks / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "yesno.yaml").write_text(question_file("yesno", metric_list="[{metric: acc}]"))
    return directory


def spec(material: Path, **evaluation: object) -> dict:
    text = {"source": f"file:{material}/text.txt", "sequence_length": 16, "stride": 8, "windows": 20}
    return {
        "prune": {
            "method": {"kind": "magnitude"},
            "pattern": {"kind": "unstructured", "sparsity": 0.5},
        },
        "evaluation": {"perplexity": [text], **evaluation},
    }


@pytest.mark.slow
def test_report_and_side_file_have_contracts_and_paired_differences(material: Path, tmp_path: Path) -> None:
    tasks = {"include": f"file:{material}/tasks", "tasks": ["yesno"]}
    pruned = secateur.prune(material / "model", spec(material, tasks=tasks), tmp_path / "out", threads=1)
    assert isinstance(pruned.report, ReportDocument)
    (text,), (task,) = pruned.report.summary.perplexity, pruned.report.summary.tasks
    assert (text.contract.split, text.contract.device) == ("test", "cpu")
    assert text.paired is not None
    assert text.paired.units == 20
    assert text.paired.value == pytest.approx(text.final - text.dense)
    assert text.paired.low < text.paired.value < text.paired.high
    windows = pruned.report.data.dense.perplexity[0].window_tokens
    assert windows == (15, *(8,) * 19)
    assert task.paired is not None
    assert (task.paired.units, task.paired.test) == (QUESTIONS, "mcnemar")
    assert task.paired.value == pytest.approx(task.difference)
    contract = pruned.report.data.dense_tasks[0].results[0].contract
    assert (contract.dataset, contract.split, contract.device) == ("json", "validation", "cpu")
    assert contract.documents_digest is not None

    side = json.loads((pruned.directory / "secateur.json").read_text())
    assert side["perplexity"][0]["paired"] == text.paired.model_dump(mode="json")
    assert side["tasks"][0]["paired"] == task.paired.model_dump(mode="json")
    page = (pruned.directory / "report.html").read_text()
    assert "over 20 pairs" in page
    assert f"over {QUESTIONS} pairs" in page

    allowed = text.paired.at(95).upper
    gate = f"perplexity <= dense + {allowed + 0.01:.4f} at 95%"
    assert check_gate(parse(gate), pruned.report.summary).passed


def test_members_of_a_sweep_have_them_too(material: Path, tmp_path: Path) -> None:
    swept = {**spec(material), "sweep": {"sparsities": [0.2, 0.6]}}
    pruned = secateur.prune(material / "model", swept, tmp_path / "out", threads=1)
    assert isinstance(pruned.report, SweepDocument)
    for member in pruned.report.data.members:
        (text,) = member.perplexity
        assert text.paired is not None
        assert text.paired.value == pytest.approx(text.final - text.dense)
