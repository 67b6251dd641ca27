"""A model that is cut, pruned and published through the API on a real Ray."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from api.client.client import ClientError
from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.structure.cut import Cut
from tests.e2e.service import Service
from tests.e2e.test_job import artifacts, finished, request, with_tasks

pytestmark = pytest.mark.e2e


def test_what_stays_is_pruned_and_published(local_service: Service, material: Path, tmp_path: Path) -> None:
    body = request(material, "llama")
    body["spec"]["structure"] = {
        "hidden_size": 48,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "drop_blocks": {"kind": "block_influence", "num_blocks": 3},
    }
    body["spec"]["prune"]["pattern"] = {"kind": "nm", "keep": 2, "group": 4}
    body["spec"]["prune"]["allocation"] = {"kind": "uniform"}
    job = finished(local_service, body)
    assert job.status == "succeeded", job.error
    made = artifacts(local_service, job)
    with local_service.client() as client:
        data = client.report(job.id).data
        for file in made["verify", "manifest"].files:
            (tmp_path / file.path).parent.mkdir(exist_ok=True)
            (tmp_path / file.path).write_bytes(b"".join(client.file(file)))
        page = b"".join(
            client.file(next(f for f in made["report", "report"].files if f.path == "report.html"))
        )
    assert data.sizes is not None
    assert {name: (before, after) for name, before, after in data.sizes.rows} == {
        "hidden_size": (64, 48),
        "num_hidden_layers": (4, 3),
        "num_attention_heads": (4, 2),
        "num_key_value_heads": (2, 1),
        "intermediate_size": (128, 96),
        "parameters": (data.sizes.dense_parameters, data.sizes.cut_parameters),
    }
    assert data.pruned is not None
    assert b'id="sizes-table"' in page

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.num_parameters() == data.sizes.cut_parameters
    cut = Cut.model_validate_json((tmp_path / "cut.json").read_text())
    assert tuple(block.block for block in cut.blocks) == data.sizes.blocks
    for name, weight in model.named_parameters():
        if name.endswith("_proj.weight"):
            assert ((weight.view(-1, 4) != 0).sum(dim=1) <= 2).all(), name


@torch.no_grad()
def test_a_smaller_vocabulary_is_counted_cut_proved_and_judged_by_the_byte(
    local_service: Service, material: Path, tmp_path: Path
) -> None:
    """With fewer channels, 2:4 zeros and lm-eval's questions; the oracle is plain transformers."""
    text = f"file:{material}/text.txt"
    body = with_tasks(request(material, "llama", workers=1), material)
    spec = body["spec"]
    spec["structure"] = {
        "vocabulary": {"size": 300, "multiple_of": 32, "texts": [{"source": text}]},
        "intermediate_size": 96,
    }
    spec["prune"]["pattern"] = {"kind": "nm", "keep": 2, "group": 4}
    spec["prune"]["allocation"] = {"kind": "uniform"}
    spec["evaluation"]["perplexity"] = [{"source": text, "sequence_length": 64, "bos": "none"}]
    with local_service.client() as client:
        planned = client.plan(body)
    assert "spec.structure.vocabulary.texts.0.source" in {given.param for given in planned.inputs}
    assert [w for w in planned.warnings if "intermediate_size=96 is no multiple of 128" in w]
    job = finished(local_service, body)
    assert job.status == "succeeded", job.error
    count = next(stage for stage in job.stages if stage.node == "count_tokens")
    assert count.unit == "MB"
    assert count.done == count.total
    made = artifacts(local_service, job)
    with local_service.client() as client:
        report = client.report(job.id)
        for file in made["verify", "manifest"].files:
            (tmp_path / file.path).parent.mkdir(exist_ok=True)
            (tmp_path / file.path).write_bytes(b"".join(client.file(file)))
        counts = b"".join(
            client.file(next(f for f in made["count_tokens", "counts"].files if "safetensors" in f.path))
        )
        page = b"".join(
            client.file(next(f for f in made["report", "report"].files if f.path == "report.html"))
        )
    table = report.data.vocabulary
    assert table is not None
    assert (table.dense_rows, table.rows) == (384, 320)
    assert table.proof.tokenizer.identical == table.proof.tokenizer.texts == 2  # of 48: numbers 19 and 39
    assert report.data.sizes is not None
    changed = {name: (before, after) for name, before, after in report.data.sizes.rows}
    assert changed["vocab_size"] == (384, 320)
    assert changed["intermediate_size"] == (128, 96)

    lines = (material / "text.txt").read_text().splitlines()
    tokenizers = [AutoTokenizer.from_pretrained(where) for where in (material / "llama", tmp_path)]
    counted = [line for i, line in enumerate(lines) if i % 20 != 19]
    naive = torch.bincount(
        torch.tensor(
            [
                token
                for line in counted
                for token in tokenizers[0](line, add_special_tokens=False)["input_ids"]
            ]
        ),
        minlength=384,
    )
    assert torch.equal(load(counts)["tokens"], naive)
    kept = KeptTokens.model_validate_json((tmp_path / "vocabulary.json").read_text())
    assert table.kept_tokens == int(naive[list(kept.kept)].sum())

    whole = (material / "text.txt").read_text()
    (row,) = report.summary.perplexity
    for directory, tokenizer, figure in zip(
        (material / "llama", tmp_path), tokenizers, (row.dense, row.pruned), strict=True
    ):
        model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        windows = torch.tensor(ids[: len(ids) // 64 * 64]).reshape(-1, 64)
        loss = functional.cross_entropy(
            model(input_ids=windows).logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()
        ).item()
        per_byte = math.exp(loss * len(ids) / len(whole.encode()))
        assert figure == pytest.approx(per_byte, rel=1e-5)
    assert row.title == "text.txt, per byte"
    assert report.summary.recipe.startswith(
        "vocabulary 320 · cut by activation: intermediate_size 96 · wanda"
    )
    assert len(tokenizers[1]) == model.config.vocab_size == 320
    assert {task.task for task in report.summary.tasks} >= {"trees", "garden", "apples"}
    assert b'id="vocabulary-table"' in page
    assert "`vocabulary.json`" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "cut.json").is_file()


def test_sizes_that_cannot_be_are_refused_at_once(local_service: Service, material: Path) -> None:
    body = request(material, "llama")
    body["spec"]["structure"] = {"num_attention_heads": 3, "num_key_value_heads": 2}
    with local_service.client() as client, pytest.raises(ClientError, match="nearest valid: 2, 4") as refused:
        client.submit(body)
    assert refused.value.param == "spec.structure.num_attention_heads"
    body["spec"]["structure"] = {
        "vocabulary": {"size": 9, "texts": [{"source": f"file:{material}/text.txt"}]}
    }
    del body["spec"]["evaluation"]["perplexity"][0]["windows"]
    with local_service.client() as client, pytest.raises(ClientError, match="nearest valid: 259") as refused:
        client.submit(body)
    assert refused.value.param == "spec.structure.vocabulary.size"
