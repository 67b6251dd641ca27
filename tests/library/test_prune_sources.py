"""`secateur.prune` on checkpoints whose files and config.json say different things."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import secateur
from pipeline.errors import UnsupportedCheckpoint
from pipeline.report.data import ReportDocument
from tests import bad_checkpoints
from tests.models import tiny_text

pytestmark = pytest.mark.usefixtures("opened_here")

MAGNITUDE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


def test_what_was_changed_and_what_is_not_read_are_in_the_report(tmp_path: Path) -> None:
    model = bad_checkpoints.two_heads(tmp_path / "model")
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(4)}
    bad_checkpoints.edit_weights(model, lambda tensors: tensors | old)
    text = {"source": f"file:{tiny_text(tmp_path)}", "sequence_length": 32, "windows": 2}
    spec = {"prune": MAGNITUDE, "evaluation": {"perplexity": [text]}}
    pruned = secateur.prune(model, spec, tmp_path / "out", threads=1)
    assert isinstance(pruned.report, ReportDocument)
    notes = " ".join(pruned.report.summary.notes)
    assert "the stored lm_head.weight is not model.embed_tokens.weight" in notes
    assert "4 stored tensors are not read" in notes
    assert "lm_head.weight is not" in (pruned.directory / "report.html").read_text()
    assert json.loads((pruned.directory / "config.json").read_text())["tie_word_embeddings"] is False
    assert not (pruned.directory / "remarks.json").exists()
    dense, sparse = (AutoModelForCausalLM.from_pretrained(one) for one in (model, pruned.directory))
    assert torch.equal(dense.lm_head.weight, sparse.lm_head.weight)
    assert torch.equal(dense.model.embed_tokens.weight, sparse.model.embed_tokens.weight)
    assert not torch.equal(sparse.lm_head.weight, sparse.model.embed_tokens.weight)


def test_nothing_is_computed_of_what_is_not_the_model_of_its_config(tmp_path: Path) -> None:
    model = bad_checkpoints.stray_biases(tmp_path / "model")
    with pytest.raises(UnsupportedCheckpoint, match="set attention_bias to true and mlp_bias to true"):
        secateur.prune(model, {"prune": MAGNITUDE}, tmp_path / "out", threads=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
