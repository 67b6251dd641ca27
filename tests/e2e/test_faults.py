"""Processes are killed with -9; the job finishes by itself with the digests of an undisturbed one."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client.client import SecateurClient
from api.service.jobs.views import JobView
from pipeline.job.events import Event
from pipeline.storage import LocalStore, open_store
from tests.e2e.service import Service, kill_all, processes_of, storage_mark
from tests.e2e.test_job import artifacts, finished, request
from tests.servers import S3Server
from tests.storage.gate import Gate

pytestmark = pytest.mark.e2e


def block_stored(block: int, *, stage: str = "[^/]+") -> str:
    """The request that records a finished block of a stage, which is given by its key."""
    return rf"PUT .*/progress/{stage}/block-{block:05d}\.json"


def test_actor_driver_and_api_may_die(
    local_service: Service,
    cloud_service: Service,
    cloud_gate: Gate,
    seaweedfs_server: S3Server,
    material: Path,
) -> None:
    """Undisturbed on a directory and SQLite; on S3 and PostgreSQL with one death after the other. Whoever is
    to die is held while it records a block."""
    body = request(material, "deep")
    undisturbed = finished(local_service, body)
    assert undisturbed.status == "succeeded", undisturbed.error

    _upload(material, cloud_service, seaweedfs_server)
    in_bucket = _in_bucket(body, cloud_service)
    with cloud_service.client() as client, local_service.client() as other:
        prune = key_of("prune", other, undisturbed.id)  # both have the same inputs
        with cloud_gate.closed(block_stored(5, stage=prune)):
            job = client.submit(in_bucket).id
            cloud_gate.wait(client, job)
            _until_block(client, job, 3)
            actors = list(processes_of(cloud_service.state_dir, _is_sweep_actor))
            assert actors, "no actor of the prune stage was found"
            kill_all(actors[:1])

            cloud_gate.close(block_stored(8, stage=prune))
            cloud_gate.wait(client, job)
            _until_block(client, job, 6, after_retry=True)
            drivers = list(
                processes_of(cloud_service.state_dir, lambda c: "workers.driver" in c and job in c)
            )
            assert drivers, "no driver was found"
            kill_all(drivers)

            cloud_gate.close(block_stored(12, stage=prune))
            cloud_gate.wait(client, job)
            _until_block(client, job, 9, attempt=2)
            cloud_service.kill()
            cloud_service.start()
    with cloud_service.client() as client:
        done = client.wait(job)
        told = list(_events(client, job))
    assert done.status == "succeeded", done.error
    assert done.attempt == 2
    assert [e for e in told if e.body.type == "stage.retried"], "the actor's death was not noticed"

    ours, theirs = artifacts(cloud_service, done), artifacts(local_service, undisturbed)
    assert ours.keys() == theirs.keys()
    differing = {
        key: (ours[key].digest, theirs[key].digest) for key in ours if ours[key].digest != theirs[key].digest
    }
    # The report tells timings; the published side file and card name where the model came from.
    assert {node for node, _ in differing} <= {"report", "publish", "verify"}
    own = {file.path: file.sha256 for file in ours["verify", "manifest"].files}
    other = {file.path: file.sha256 for file in theirs["verify", "manifest"].files}
    assert {path for path in own if own[path] != other[path]} <= {
        "README.md",
        "secateur.json",
        "verification.json",
        "manifest.json",
    }


def test_another_number_of_workers_goes_on_from_stored_activations(
    cloud_service: Service, cloud_gate: Gate, seaweedfs_server: S3Server, material: Path
) -> None:
    """No block is run again: what enters the next one lies in the store, whoever has to take it."""
    body = request(material, "deep")
    body["spec"]["prune"]["allocation"] = {"kind": "uniform"}  # no other stage goes over the blocks
    body["spec"]["calibration"] |= {"samples": 16, "seed": 11}
    body["spec"]["prune"]["reconstruction"] = {"epochs": 1, "samples_per_step": 4}
    store = open_store(storage_mark(cloud_service.state_dir), seaweedfs_server.options)

    def snapshots() -> list[str]:
        return [found.key for found in store.list("progress/") if "/activations-" in found.key]

    earlier = snapshots()
    with cloud_service.client() as client:
        with cloud_gate.closed(block_stored(5)):
            job = client.submit(body).id
            cloud_gate.wait(client, job)
            _until_block(client, job, 3)
            client.cancel(job)
            assert client.wait(job).status == "cancelled"
        taken = set(snapshots()) - set(earlier)
        assert any("-hidden-" in key for key in taken)
        assert any("-targets-" in key for key in taken)
        body["resources"]["workers"] = 1
        again = client.wait(client.submit(body).id)
        told = [event.body.text for event in _events(client, again.id) if event.body.type == "message"]
    assert again.status == "succeeded", again.error
    found = [re.match(r"(\d+) of 16 blocks .*; going on from block (\d+)", text) for text in told]
    stored = [match for match in found if match]
    assert len(stored) == 1
    assert int(stored[0][1]) >= 3
    assert int(stored[0][1]) - int(stored[0][2]) <= 1  # the end may have come between the two
    assert snapshots() == earlier


def test_a_job_that_keeps_dying_stops_with_the_reason(
    cloud_service: Service, cloud_gate: Gate, material: Path
) -> None:
    """However fast an attempt is, it is held before it stores the job's result."""
    body = request(material, "llama", workers=1)
    body["spec"]["calibration"] |= {"seed": 5}
    killed = set()
    with cloud_service.client() as client, cloud_gate.closed(r"PUT .*/jobs/[^/]+/result\.json"):
        job = client.submit(body).id
        while (view := client.job(job)).status not in ("failed", "succeeded"):
            drivers = list(
                processes_of(cloud_service.state_dir, lambda c: "workers.driver" in c and job in c)
            )
            kill_all(drivers)
            killed.update(drivers)
            time.sleep(0.2)
    assert view.status == "failed"
    assert view.attempt == 3
    assert len(killed) >= 3
    assert view.error is not None
    assert view.error.message
    assert view.error.log


def test_an_altered_blob_is_named(local_service: Service, small_job: JobView, material: Path) -> None:
    keep = artifacts(local_service, small_job)["calibrate", "samples"].files[0]
    store = LocalStore(local_service.state_dir / "storage")
    key = f"blobs/sha256/{keep.sha256[:2]}/{keep.sha256}"
    data = b"".join(store.get(key))
    store.put(key, [data[:-1] + bytes([data[-1] ^ 1])])
    body = request(material, "mistral", workers=1)
    body["spec"]["prune"]["pattern"]["sparsity"] = 0.55
    second = finished(local_service, body)
    store.put(key, [data])
    assert second.status == "failed"
    assert second.error is not None
    assert second.error.code == "corrupt_object"
    assert keep.sha256 in second.error.message


def _is_sweep_actor(command: str) -> bool:
    return command.startswith("ray::") and ("SweepActor" in command or "prune" in command)


def _until_block(
    client: SecateurClient, job: str, block: int, *, after_retry: bool = False, attempt: int = 1
) -> None:
    """Follow the events until the prune stage has finished a block."""
    retried = not after_retry
    for event in client.follow(job):
        body = event.body
        assert body.type not in ("job.failed", "job.succeeded"), event
        retried = retried or body.type == "stage.retried"
        if (
            retried
            and event.attempt >= attempt
            and body.type == "stage.progress"
            and body.node == "prune"
            and body.done >= block
        ):
            return
    raise AssertionError("the job ended too early")


def key_of(node: str, client: SecateurClient, job: str) -> str:
    """The key of one of the job's stages."""
    for event in _events(client, job):
        if event.body.type == "stage.started" and event.body.node == node:
            return event.body.key
    raise AssertionError(f"{node} was never started")


def _events(client: SecateurClient, job: str) -> Iterator[Event]:
    yield from client.follow(job)


def _upload(material: Path, service: Service, server: S3Server) -> None:
    store = open_store(f"s3://secateur-e2e/{service.state_dir.name}-sources", server.options)
    for path in [*(material / "deep").iterdir(), material / "text.txt"]:
        key = f"deep/{path.name}" if path.parent.name == "deep" else path.name
        store.put(key, [path.read_bytes()])


def _in_bucket(body: dict, service: Service) -> dict:
    prefix = f"s3://secateur-e2e/{service.state_dir.name}-sources"
    spec = body["spec"]
    return {
        **body,
        "spec": {
            **spec,
            "model": {"source": f"{prefix}/deep"},
            "calibration": {**spec["calibration"], "source": f"{prefix}/text.txt"},
            "evaluation": {
                "perplexity": [
                    {**text, "source": f"{prefix}/text.txt"}
                    for text in spec["evaluation"].get("perplexity", [])
                ]
            },
        },
    }
