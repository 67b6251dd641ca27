"""A job with secateur_sparse as its target, whose processes run in this one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import secateur
from pipeline.report.data import ReportDocument
from tests.models import tiny_checkpoint
from workers.targets.child import answers
from workers.targets.consumer import Opening
from workers.targets.opened import CHILD, Answer
from workers.targets.reference import judged
from workers.targets.secateur_sparse import open_session

SPEC: dict[str, Any] = {
    "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.7}},
    "target": {
        "kind": "secateur_sparse",
        "values": "int8",
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "rounds": 1,
    },
    "publish": {"sparse": "float32"},
}


def asked_here(
    opening: Opening, asked: Mapping[str, Any], *, python: str = "", module: str = CHILD
) -> Answer:
    """What a fresh process would answer; tests of the targets start real ones."""
    if module == CHILD:
        return answers(open_session(opening), dict(asked))
    found: Answer = judged(json.loads(json.dumps({"opening": vars(opening), **asked})))
    return found


@pytest.mark.usefixtures("opened_here")
def test_a_result_is_opened_and_measured_with_sparse_linears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agreement", "measuring"):
        monkeypatch.setattr(f"workers.targets.{module}.ask", asked_here)
    model = tiny_checkpoint("llama", tmp_path / "model")
    made = secateur.prune(model, SPEC, tmp_path / "out", threads=1)
    verification = json.loads((tmp_path / "out" / "verification.json").read_bytes())
    (check,) = verification["targets"]
    assert (check["target"], check["tolerance"]) == ("secateur_sparse", 0.01)
    assert check["difference"] < check["tolerance"]
    assert verification["packed"]["lossless"] is True
    report = made.report
    assert isinstance(report, ReportDocument)
    (served,) = report.data.serving
    assert served.dense_kernels is not None
    for one in (served.dense, served.final, served.dense_kernels):
        assert one.decode.median > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "generated, beside dense kernels of the same make" in page
    assert (tmp_path / "out" / "sparse" / "config.json").is_file()
