"""A job with a target is exported, opened before it is published, measured, and shown; or not published."""

import json
from pathlib import Path
from typing import Any

import pytest

import secateur
from pipeline.errors import InvalidSpec, TargetFailed
from pipeline.job.events import StageFinished
from pipeline.report.data import ReportDocument
from tests.models import tiny_checkpoint

SPEC: dict[str, Any] = {
    "structure": {"intermediate_size": 64, "criterion": {"kind": "magnitude"}},
    "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
    "target": {"kind": "llama.cpp", "prompt_tokens": 8, "generated_tokens": 4, "rounds": 1},
}


@pytest.mark.slow
def test_a_result_is_served_before_and_after_it_is_published(tmp_path: Path) -> None:
    done: list[str] = []

    def told(event: object) -> None:
        if isinstance(event, StageFinished):
            done.append(event.result.node)

    model = tiny_checkpoint("llama", tmp_path / "model")
    made = secateur.prune(model, SPEC, tmp_path / "out", threads=1, told=told)
    serving = [
        "export:dense:llama.cpp",
        "export:final:llama.cpp",
        "open:llama.cpp",
        "measure_serving:llama.cpp",
    ]
    assert [node for node in done if node in serving] == serving
    assert done.index("open:llama.cpp") < done.index("verify")
    assert (tmp_path / "out" / "llama.cpp" / "model.gguf").read_bytes()[:4] == b"GGUF"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_bytes())
    assert "llama.cpp/model.gguf" in {file["path"] for file in manifest["files"]}
    verification = json.loads((tmp_path / "out" / "verification.json").read_bytes())
    (check,) = verification["targets"]
    assert (check["target"], check["texts"]) == ("llama.cpp", 2)
    assert check["difference"] < check["tolerance"]
    report = made.report
    assert isinstance(report, ReportDocument)
    (served,) = report.data.serving
    assert served.final.file_bytes < served.dense.file_bytes
    assert served.final.decode.median > 0
    assert report.summary.serving is not None
    assert set(report.summary.serving) == {"llama.cpp"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Serving" in page
    assert "generated, tokens/s" in page


@pytest.mark.slow
def test_what_a_target_computes_otherwise_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that forgets the order of query rows: the export opens, and answers something else."""
    monkeypatch.setattr("workers.targets.gguf_file.INTERLEAVED", frozenset())
    storage = tmp_path / "storage"
    with pytest.raises(TargetFailed, match="What would be published computes something else"):
        secateur.prune(
            tiny_checkpoint("llama", tmp_path / "model"), SPEC, tmp_path / "out", threads=1, storage=storage
        )
    assert not (tmp_path / "out").exists()
    assert not list(storage.rglob("manifest.json"))


def test_a_target_that_is_not_installed_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_TARGETS", "onnxruntime")
    seen: list[object] = []
    with pytest.raises(InvalidSpec, match=r"pip install 'secateur\[targets\]'") as refused:
        secateur.prune(tiny_checkpoint("llama", tmp_path / "model"), SPEC, tmp_path / "out", told=seen.append)
    assert refused.value.param == "spec.target.0.kind"
    assert seen == []
