"""Recovery training as a job: on S3 and PostgreSQL, with a worker and a driver killed in the middle."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from api.client.client import SecateurClient
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import Curve
from pipeline.storage import Store, open_store
from tests.e2e.service import Service, kill_all, processes_of, storage_mark, wait_until_gone
from tests.e2e.test_job import finished, request
from tests.servers import S3Server
from tests.storage.gate import Gate

pytestmark = pytest.mark.e2e

STEPS, SAVED, VALIDATED = 16, 4, 6
BLOBS = r"(PUT|POST) .*/blobs/"
TRAINED = r"PUT .*/progress/[^/]+/trained\.json"  # the mark that training is over
A_SAVE = r"(PUT|POST) .*/training/[^/]+/checkpoint_"


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
        "validate_every_steps": VALIDATED,
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
    local_service: Service,
    cloud_service: Service,
    cloud_gate: Gate,
    seaweedfs_server: S3Server,
    material: Path,
) -> None:
    """Undisturbed on a directory and SQLite; on S3 and PostgreSQL with one death after the other.

    Training may stop early, so that it stores its weights when the loss on held-out text is better than ever:
    there it is held, after the steps 6 and 12, until it is killed.
    """
    from tests.e2e.test_faults import _in_bucket, _upload

    asked = recovery_request(material, early_stop={"patience": STEPS})
    asked["spec"]["evaluation"] = {}  # the curves tell
    undisturbed = finished(local_service, asked)
    assert undisturbed.status == "succeeded", undisturbed.error

    _upload(material, cloud_service, seaweedfs_server)
    body = _in_bucket(asked, cloud_service)
    text = body["spec"]["recovery"]["text"]
    text["source"] = body["spec"]["calibration"]["source"]
    storage = open_store(storage_mark(cloud_service.state_dir), seaweedfs_server.options)
    with cloud_service.client() as client, cloud_gate.closed(BLOBS, after=A_SAVE):
        job = client.submit(body).id
        cloud_gate.wait(client, job)
        _until_registered(storage, SAVED)
        _until_step(client, job, VALIDATED)
        workers = list(processes_of(cloud_service.state_dir, _is_train_worker))
        assert len(workers) == 2, workers
        kill_all(workers[1:])

        cloud_gate.close(BLOBS, after=A_SAVE)  # the next save
        cloud_gate.wait(client, job)
        _until_registered(storage, 2 * SAVED)
        _until_step(client, job, 2 * VALIDATED, started=2)
        workers = list(processes_of(cloud_service.state_dir, _is_train_worker))
        drivers = list(processes_of(cloud_service.state_dir, lambda c: "workers.driver" in c and job in c))
        assert drivers, "no driver was found"
        kill_all(drivers)
        wait_until_gone(workers)
        cloud_gate.open()
        done = client.wait(job)
    assert done.status == "succeeded", done.error
    assert done.attempt == 2

    ours, theirs = _curve(cloud_service, done), _curve(local_service, undisturbed)
    assert ours.starts == 3
    assert [record.step for record in ours.steps] == list(range(1, STEPS + 1))
    assert [record.data_checksum for record in ours.steps] == [r.data_checksum for r in theirs.steps]
    assert [record.loss for record in ours.steps] == pytest.approx([r.loss for r in theirs.steps], abs=1e-3)
    assert [validation.step for validation in ours.validations] == [0, VALIDATED, 2 * VALIDATED, STEPS]
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


def _until_registered(storage: Store, step: int) -> None:
    """Return when Ray Train knows the training checkpoint of this step, from which it would go on."""
    known = 0
    while known != step:
        assert known < step
        time.sleep(0.2)
        for found in storage.list("training/"):
            if found.key.endswith("/checkpoint_manager_snapshot.json"):
                latest = json.loads(b"".join(storage.get(found.key)))["latest_checkpoint_result"]
                known = latest["metrics"]["step"] if latest else 0


def _until_step(client: SecateurClient, job: str, step: int, *, started: int = 1) -> None:
    """Follow the events until so many steps are done."""
    for event in client.follow(job):
        body = event.body
        assert body.type not in ("job.failed", "job.succeeded"), event
        if body.type == "training.step" and body.record.step >= step and body.record.started >= started:
            return
    raise AssertionError("the job ended too early")
