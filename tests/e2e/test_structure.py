"""A model that is cut, pruned and published through the API on a real Ray."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from api.client import ClientError
from pipeline.structure.cut import Cut
from tests.e2e.service import Service
from tests.e2e.test_job import artifacts, finished, request

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
        for file in made["publish", "manifest"].files:
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


def test_sizes_that_cannot_be_are_refused_at_once(local_service: Service, material: Path) -> None:
    body = request(material, "llama")
    body["spec"]["structure"] = {"num_attention_heads": 3, "num_key_value_heads": 2}
    with local_service.client() as client, pytest.raises(ClientError, match="nearest valid: 2, 4") as refused:
        client.submit(body)
    assert refused.value.param == "spec.structure.num_attention_heads"
