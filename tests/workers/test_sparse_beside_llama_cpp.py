"""A job that measures sparse linears beside the dense model in llama.cpp, with the perplexity of each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest

import secateur
from pipeline.report.data import ReportDocument
from tests.models import PARAGRAPH, tiny_checkpoint
from workers.targets.child import answers, losses
from workers.targets.consumer import Opening
from workers.targets.gguf_file import write_gguf
from workers.targets.gguf_types import write_as
from workers.targets.opened import CHILD, Answer, ask
from workers.targets.reference import judged
from workers.targets.secateur_sparse import open_session

SPEC: dict[str, Any] = {
    "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.7}},
    "target": {
        "kind": "secateur_sparse",
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "rounds": 1,
        "llama_cpp": ["F32", "Q4_0"],
    },
}


def asked_here(
    opening: Opening, asked: Mapping[str, Any], *, python: str = "", module: str = CHILD
) -> Answer:
    """Ours answer in this process, which has the libraries already; llama.cpp in one of its own."""
    if opening.kind == "llama.cpp":
        return ask(opening, asked)
    if module != CHILD:
        found: Answer = judged(json.loads(json.dumps({"opening": vars(opening), **asked})))
        return found
    session = open_session(opening)
    return losses(session, dict(asked)) if "score" in asked else answers(session, dict(asked))


@pytest.mark.slow
@pytest.mark.usefixtures("opened_here")
def test_each_has_its_speed_and_its_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("agreement", "measuring"):
        monkeypatch.setattr(f"workers.targets.{module}.ask", asked_here)
    (tmp_path / "text.txt").write_text(PARAGRAPH * 3)
    text = {"source": f"file:{tmp_path}/text.txt", "name": "text", "sequence_length": 32, "stride": 20}
    model = tiny_checkpoint("llama", tmp_path / "model")
    spec = {**SPEC, "evaluation": {"perplexity": [text]}}
    made = secateur.prune(model, spec, tmp_path / "out", threads=1)
    report = made.report
    assert isinstance(report, ReportDocument)
    (served,) = report.data.serving
    assert [one.type for one in served.beside] == ["F32", "Q4_0"]
    plain, quantized = (one.served for one in served.beside)
    assert quantized.file_bytes < plain.file_bytes
    assert plain.decode.median > 0
    dense, pruned = report.data.dense, report.data.pruned
    assert pruned is not None
    expected, final = dense.perplexity[0].perplexity, pruned.perplexity[0].perplexity
    for found, wanted in ((served.dense, expected), (served.final, final), (plain, expected)):
        assert f"{found.perplexity['text']:.4g}" == f"{wanted:.4g}"
    assert quantized.perplexity["text"] == pytest.approx(expected, rel=0.1)
    assert quantized.perplexity["text"] != plain.perplexity["text"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "llama.cpp Q4_0, dense" in page
    assert ("llama.cpp generates" in page) == any(
        one.served.decode.median >= served.final.decode.median for one in served.beside
    )


def test_narrow_types_hold_what_they_can(tmp_path: Path) -> None:
    """The head of a file in Q4_0 has eight bits, vectors have 32, and bfloat16 weights come back."""
    write_gguf(tiny_checkpoint("llama", tmp_path / "model", dtype="bfloat16"), tmp_path / "plain.gguf")
    for kind in ("BF16", "F32", "Q4_0"):
        write_as(tmp_path / "plain.gguf", tmp_path / f"{kind}.gguf", kind)
    plain, same, quantized = (
        {one.name: one for one in gguf.GGUFReader(tmp_path / f"{name}.gguf").tensors}
        for name in ("plain", "BF16", "Q4_0")
    )
    for name, tensor in plain.items():
        assert (same[name].data == tensor.data).all()
    types = {name: one.tensor_type.name for name, one in quantized.items()}
    assert types["token_embd.weight"] == "Q8_0"  # it is the head too
    assert types["blk.0.attn_norm.weight"] == "F32"
    assert {types[name] for name in types if name.startswith("blk.0.ffn_") and "norm" not in name} == {"Q4_0"}
