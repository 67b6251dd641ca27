"""Recovery training as a job: on S3 and PostgreSQL, with a worker and a driver killed in the middle."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from api.client.client import SecateurClient
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import Curve
from tests.e2e.service import Service, processes_of
from tests.e2e.test_job import finished, request
from tests.servers import S3Server

pytestmark = pytest.mark.e2e

STEPS, SAVED = 16, 4


def recovery_request(material: Path, **recovery: Any) -> dict[str, Any]:
    """Half of a deep model's weights pruned, then trained by two workers; long enough to be interrupted."""
    body = request(material, "deep")
    body["spec"]["prune"]["allocation"] = {"kind": "uniform"}
    body["spec"]["recovery"] = {
        "text": {
            "source": f"file:{material}/text.txt",
            "sequence_length": 64,
            "validation_sequences": 4,
            "epochs": 20,
        },
        "steps": STEPS,
        "global_batch_size": 4,
        "learning_rate": {"peak": 2e-3, "warmup_steps": 4},
        "validate_every_steps": 10,
        "certify_every_steps": 5,
        **recovery,
    }
    body["resources"] = {
        "workers": 2,
        "memory_per_worker": "2GiB",
        "recovery": {"zero_stage": 2, "save_every_steps": SAVED},
    }
    return body


def test_training_goes_on_after_its_worker_and_its_driver_died(
    local_service: Service, cloud_service: Service, seaweedfs_server: S3Server, material: Path
) -> None:
    """Undisturbed on a directory and SQLite; on S3 and PostgreSQL with one death after the other."""
    from tests.e2e.test_faults import _in_bucket, _upload

    asked = recovery_request(material)
    asked["spec"]["evaluation"] = {}  # the curves tell
    undisturbed = finished(local_service, asked)
    assert undisturbed.status == "succeeded", undisturbed.error

    _upload(material, cloud_service, seaweedfs_server)
    body = _in_bucket(asked, cloud_service)
    text = body["spec"]["recovery"]["text"]
    text["source"] = body["spec"]["calibration"]["source"]
    with cloud_service.client() as client:
        job = client.submit(body).id
        _until_step(client, job, SAVED + 2)
        workers = list(processes_of(cloud_service.state_dir, _is_train_worker))
        assert len(workers) == 2, workers
        os.kill(workers[1], signal.SIGKILL)

        _until_step(client, job, 2 * SAVED + 2, started=2)
        drivers = list(processes_of(cloud_service.state_dir, lambda c: "workers.driver" in c and job in c))
        assert drivers, "no driver was found"
        for driver in drivers:
            os.kill(driver, signal.SIGKILL)
        done = client.wait(job)
    assert done.status == "succeeded", done.error
    assert done.attempt == 2

    ours, theirs = _curve(cloud_service, done), _curve(local_service, undisturbed)
    assert ours.starts == 3
    assert [record.step for record in ours.steps] == list(range(1, STEPS + 1))
    assert [record.data_checksum for record in ours.steps] == [r.data_checksum for r in theirs.steps]
    assert [record.loss for record in ours.steps] == pytest.approx([r.loss for r in theirs.steps], abs=1e-3)
    assert ours.validations[-1].loss < ours.validations[0].loss
    certificate = Certificate.model_validate_json(
        _content(cloud_service, done, "recover", "certificate.json")
    )
    assert certificate.holds
    assert {check.at for check in certificate.checks} == {"mask", "step", "gather", "save"}


def _curve(service: Service, job: Any) -> Curve:
    return Curve.model_validate_json(_content(service, job, "recover", "curve.json"))


def _content(service: Service, job: Any, node: str, path: str) -> bytes:
    with service.client() as client:
        for artifact in client.artifacts(job.id).data:
            for file in artifact.files:
                if artifact.node == node and file.path == path:
                    return b"".join(client.file(file))
    raise AssertionError(f"{node} has no {path}")


def _is_train_worker(command: str) -> bool:
    return command.startswith("ray::") and "RayTrainWorker" in command


def _until_step(client: SecateurClient, job: str, step: int, *, started: int = 1) -> None:
    """Follow the events until so many steps are done."""
    for event in client.follow(job):
        body = event.body
        assert body.type not in ("job.failed", "job.succeeded"), event
        if body.type == "training.step" and body.record.step >= step and body.record.started >= started:
            return
    raise AssertionError("the job ended too early")
