"""The perplexity of a model with sparse linears, by the code that evaluates in jobs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import secateur
import secateur.sparse
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint
from pipeline.report.data import ReportDocument
from tests.models import PARAGRAPH
from tests.sparse.pruned import pruned_checkpoint

TEXT: dict[str, Any] = {"source": "file:text.txt", "name": "text", "sequence_length": 32, "stride": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("measured")
    (directory / "text.txt").write_text(PARAGRAPH * 3)
    return pruned_checkpoint("llama", directory / "model", dtype="bfloat16")


@pytest.fixture(autouse=True)
def beside_the_text(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)


def test_it_is_that_of_a_job_and_of_transformers(model: Path, tmp_path: Path) -> None:
    """A job walks the blocks of the dense checkpoint; here sparse and dense models run whole."""
    spec = {
        "evaluation": {"perplexity": [{**TEXT, "source": f"file:{model.parent}/text.txt"}]},
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.0}},
    }
    report = secateur.prune(model, spec, tmp_path / "out", threads=1).report
    assert isinstance(report, ReportDocument)
    streamed = report.data.dense.perplexity[0]
    sparse = secateur.perplexity(secateur.sparse.load(model), TEXT)
    dense = secateur.perplexity(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), TEXT)
    for found in (sparse, dense):
        assert f"{found.perplexity:.4g}" == f"{streamed.perplexity:.4g}"
        assert found.contract == streamed.contract
        assert found.window_tokens == streamed.window_tokens


def test_a_rounded_model_has_another(model: Path) -> None:
    exact, rounded = (
        secateur.perplexity(secateur.sparse.load(model, values=values), TEXT).loss
        for values in ("bf16", "int8")
    )
    assert exact != rounded
    assert abs(exact - rounded) < 0.1


def test_what_cannot_be_used_is_refused(model: Path, tmp_path: Path) -> None:
    opened = secateur.sparse.load(model)
    with pytest.raises(InvalidSpec, match="sequence_length"):
        secateur.perplexity(opened, {**TEXT, "sequence_length": 0})
    with pytest.raises(UnsupportedCheckpoint, match="cannot load the tokenizer"):
        secateur.perplexity(opened, TEXT, tokenizer=tmp_path)
