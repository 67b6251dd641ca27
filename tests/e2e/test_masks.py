"""Learned masks as a job: its driver dies in the middle; another job begins with what it published."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.refs import MASKS_PATH
from pipeline.report.data import ReportDocument
from tests.e2e.service import Service, processes_of
from tests.e2e.test_job import finished, request
from tests.e2e.test_recovery import _content, _until_step

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


def test_masks_are_learned_published_and_learned_on(local_service: Service, material: Path) -> None:
    with local_service.client() as client:
        job = client.submit(learning_request(material)).id
        _until_step(client, job, 3)
        drivers = list(processes_of(local_service.state_dir, lambda c: "workers.driver" in c and job in c))
        assert drivers, "no driver was found"
        for driver in drivers:
            os.kill(driver, signal.SIGKILL)
        done = client.wait(job)
    assert done.status == "succeeded", done.error
    assert done.attempt == 2

    report = ReportDocument.model_validate_json(_content(local_service, done, "report", "report.json"))
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
    assert b"Masks learned" in _content(local_service, done, "report", "report.html")

    masks = material / "masks.safetensors"
    masks.write_bytes(_content(local_service, done, "publish", MASKS_PATH))
    asked = learning_request(material, prior={"kind": "stored", "source": f"file:{masks}"})
    asked["spec"]["prune"]["method"]["training"] |= {"scope": "block", "steps": 2}
    del asked["spec"]["prune"]["method"]["training"]["objective"]
    asked["spec"]["prune"]["compare_with"] = [{"name": "general", "source": f"file:{masks}"}]
    further = finished(local_service, asked)
    assert further.status == "succeeded", further.error
    again = ReportDocument.model_validate_json(_content(local_service, further, "report", "report.json"))
    assert again.summary.masks is not None
    assert 0.5 < again.summary.agreement["prior"] < 1
    assert again.summary.agreement["general"] == again.summary.agreement["prior"]
