"""Learned masks as a job: its driver dies in the middle; another job begins with what it published."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.refs import MASKS_PATH
from pipeline.report.data import ReportDocument
from tests.e2e.service import Service, kill_all, processes_of, wait_until_gone
from tests.e2e.test_job import finished, request
from tests.e2e.test_recovery import TRAINED, _content, _is_train_worker, _until_step
from tests.storage.gate import Gate

pytestmark = pytest.mark.e2e

STEPS = 6


def learning_request(material: Path, **method: Any) -> dict[str, Any]:
    """2:4 masks of a tiny model, learned from Wanda's on."""
    body = request(material, "llama")
    body["spec"]["prune"] = {
        "method": {
            "kind": "maskllm",
            "training": {
                "text": {
                    "source": f"file:{material}/text.txt",
                    "sequence_length": 64,
                    "validation_sequences": 4,
                    "epochs": 20,
                },
                "objective": {"kind": "distillation"},
                "steps": STEPS,
                "global_batch_size": 4,
                "learning_rate": {"peak": 2e-2, "warmup_steps": 0},
                "temperature": {"start": 1, "end": 0.3},
                "validate_every_steps": 2,
            },
            **method,
        },
        "pattern": {"kind": "nm", "keep": 2, "group": 4},
    }
    body["resources"] = {
        "workers": 1,
        "memory_per_worker": "2GiB",
        "recovery": {"zero_stage": 2, "save_every_steps": 2},
    }
    return body


def test_masks_are_learned_published_and_learned_on(
    cloud_service: Service, cloud_gate: Gate, material: Path
) -> None:
    """However fast the first attempt is, it is held before it stores what it has learned."""
    state_dir = cloud_service.state_dir
    with cloud_service.client() as client:
        with cloud_gate.closed(TRAINED):
            job = client.submit(learning_request(material)).id
            _until_step(client, job, 3)
            workers = list(processes_of(state_dir, _is_train_worker))
            drivers = list(processes_of(state_dir, lambda c: "workers.driver" in c and job in c))
            assert drivers, "no driver was found"
            kill_all(drivers)
            wait_until_gone(workers)
        done = client.wait(job)
    assert done.status == "succeeded", done.error
    assert done.attempt == 2

    report = ReportDocument.model_validate_json(_content(cloud_service, done, "report", "report.json"))
    learned = report.data.masks
    assert learned is not None
    assert [record.step for record in learned.training.curve.steps] == list(range(1, STEPS + 1))
    assert report.data.sparsity is not None
    assert report.data.sparsity.sparsity == pytest.approx(0.5)
    assert report.data.certificate is not None
    assert report.data.certificate.holds
    assert all(one.nm == (2, 4) for one in report.data.certificate.tensors)
    assert report.summary.masks is not None
    assert 0 < report.summary.masks.changed < 1
    assert set(report.summary.agreement) == {"prior"}
    assert b"Masks learned" in _content(cloud_service, done, "report", "report.html")

    masks = material / "masks.safetensors"
    masks.write_bytes(_content(cloud_service, done, "publish", MASKS_PATH))
    asked = learning_request(material, prior={"kind": "stored", "source": f"file:{masks}"})
    asked["spec"]["prune"]["method"]["training"] |= {"scope": "block", "steps": 2}
    del asked["spec"]["prune"]["method"]["training"]["objective"]
    asked["spec"]["prune"]["compare_with"] = [{"name": "general", "source": f"file:{masks}"}]
    further = finished(cloud_service, asked)
    assert further.status == "succeeded", further.error
    again = ReportDocument.model_validate_json(_content(cloud_service, further, "report", "report.json"))
    assert again.summary.masks is not None
    assert 0.5 < again.summary.agreement["prior"] < 1
    assert again.summary.agreement["general"] == again.summary.agreement["prior"]
