"""A Ray of two nodes: pruned over both as in one process; then one is announced to go, and goes, in the
middle of training."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load

from pipeline.allocations.uniform import Uniform
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import Curve, StepRecord
from pipeline.artifacts.refs import CheckpointRef, SamplesRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.job.events import DriverEvent, EventBody
from pipeline.job.ledger import NodeResult, WorkOrder, order_key
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from pipeline.spec.patterns import Unstructured
from pipeline.storage.content import ContentStore
from tests.e2e.conftest import BUCKET
from tests.e2e.test_recovery import BLOBS, recovery_request
from tests.storage.gate import Gate
from tests.sweeping import prune_in_process
from workers.settings import WorkerSettings

pytestmark = pytest.mark.e2e

NODE = {"num_cpus": 1, "memory": 4 * 2**30}
HEAD, GOING, COMING = "127.0.0.2", "127.0.0.3", "127.0.0.4"  # Ray asks 127.0.0.1 for its public address
STEPS = 24
TRAINING_BEGINS = r"GET .*/progress/[^/]+/failed\.json"
NOTICE_SECONDS = 10  # Ray looks for notices every second (below), and training asks every 5 s


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The head only."""
    started = Cluster(
        initialize_head=True, head_node_args={**NODE, "node_ip_address": HEAD, "include_dashboard": False}
    )
    yield started
    started.shutdown()


def test_training_saves_when_a_node_is_drained_and_goes_on_without_it(
    cluster: Cluster, cloud_gate: Gate, material: Path
) -> None:
    """Nothing but the notice makes it save: `save_every_steps` is beyond the end. Training waits for the
    notice where it first stores weights, which were better than ever on held-out text."""
    cloud_gate.server.make_bucket(BUCKET)
    going = cluster.add_node(**NODE, node_ip_address=GOING)
    settings = WorkerSettings(  # type: ignore[call-arg]
        storage_url=f"s3://{BUCKET}/two-nodes", s3=cloud_gate.server.options, allowed_roots=str(material)
    )
    store = settings.content().store
    seen: list[StepRecord] = []
    results: dict[str, NodeResult] = {}
    gone = replaced = False
    with (
        cloud_gate.closed(BLOBS, after=TRAINING_BEGINS),
        noticed(cloud_gate, cluster, going.node_id) as drained,
        contextlib.closing(driven(asked(material), settings, cluster)) as events,
    ):
        for body in events:
            if body.type == "stage.finished":
                results[body.result.node] = body.result
            if body.type != "training.step":
                continue
            seen.append(body.record)
            saved = (
                found.key.endswith("/checkpoint_manager_snapshot.json") for found in store.list("training/")
            )
            if not gone and any(saved):
                cluster.remove_node(going, allow_graceful=False)
                gone = True
            elif not replaced and body.record.started == 2:
                cluster.add_node(**NODE, node_ip_address=COMING)  # what comes after training needs two again
                replaced = True
    assert (drained.is_set(), gone, replaced) == (True, True, True)

    content = settings.content()
    as_in_one_process(content, results)
    artifacts = results["recover"].artifacts
    curve = Curve.model_validate_json(content.get_bytes(artifacts["curve"].file("curve.json")))
    certificate = Certificate.model_validate_json(
        content.get_bytes(artifacts["certificate"].file("certificate.json"))
    )
    assert certificate.holds
    assert [record.step for record in curve.steps] == list(range(1, STEPS + 1))
    assert [record.started for record in curve.steps] == sorted(record.started for record in curve.steps)
    assert (curve.steps[0].started, curve.steps[0].workers) == (1, 2)
    # Not in the curve: when the new node comes early, training goes back to two workers, from the notice on.
    assert (2, 1) in {(record.started, record.workers) for record in seen}
    taken = {record.step: record.data_checksum for record in curve.steps}
    assert [record.data_checksum for record in seen] == [taken[record.step] for record in seen]
    assert curve.validations[-1].loss < curve.validations[0].loss


def asked(material: Path) -> JobRequest:
    """Two workers, or one when the other stays away."""
    body: dict[str, Any] = recovery_request(
        material, steps=STEPS, validate_every_steps=4, early_stop={"patience": STEPS}
    )
    body["spec"]["calibration"] |= {"samples": 8, "sequence_length": 32}
    half = {"kind": "unstructured", "sparsity": 0.5}
    body["spec"]["prune"] = {"method": {"kind": "sparsegpt"}, "pattern": half}
    body["spec"]["evaluation"]["perplexity"][0]["windows"] = 1
    body["resources"]["recovery"].update(save_every_steps=10 * STEPS, min_workers=1)
    return JobRequest.model_validate(body)


def as_in_one_process(content: ContentStore, results: dict[str, NodeResult]) -> None:
    """Statistics were merged, and linears shared out over two nodes: the bits are the same."""
    dense = results["import_model"].artifacts["checkpoint"]
    made = results["prune"].artifacts
    assert isinstance(dense, CheckpointRef)
    assert isinstance(made["checkpoint"], CheckpointRef)
    samples = content.get_bytes(results["calibrate"].artifacts["samples"].file(SamplesRef.TOKENS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = prune_in_process(
            content,
            dense,
            list(load(samples)["tokens"]),
            method=SparseGPT(),
            allocation=Uniform(),
            pattern=Unstructured(sparsity=0.5),
        )
    finally:
        torch.set_num_threads(threads)
    pruned = CheckpointReader(content, made["checkpoint"])
    assert alone.weights
    for name, weight_OI in alone.weights.items():
        assert torch.equal(pruned.tensor(name), weight_OI), name


def driven(request: JobRequest, settings: WorkerSettings, cluster: Cluster) -> Generator[EventBody]:
    """What a driver tells, started as Ray Jobs does."""
    order = WorkOrder(job="n", attempt=1, request=request, pins=resolve(request.spec, settings.access()))
    settings.content().put_model(order_key(order.job, order.attempt), order)
    environment = {
        **os.environ,
        "RAY_ADDRESS": cluster.address,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",  # Ray counts on a lost node for a while
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "SECATEUR_STORAGE_URL": settings.storage_url,
        "SECATEUR_S3_ENDPOINT_URL": str(settings.s3.endpoint_url),
        **dict(
            zip(("SECATEUR_S3_ACCESS_KEY", "SECATEUR_S3_SECRET_KEY"), settings.s3.keys or (), strict=True)
        ),
        "SECATEUR_ALLOWED_ROOTS": os.pathsep.join(map(str, settings.allowed_roots)),
    }
    command = [sys.executable, "-m", "workers.driver", "--job", order.job, "--attempt", str(order.attempt)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as driver:
        try:
            for line in driver.stdout or ():
                if line.startswith("{"):  # Ray tells of lost nodes there too
                    yield DriverEvent.model_validate_json(line).body
            assert driver.wait() == 0
        finally:
            driver.kill()


@contextlib.contextmanager
def noticed(gate: Gate, cluster: Cluster, node_id: str) -> Iterator[threading.Event]:
    """Drains a node as soon as the gate holds a request, and opens the gate when Ray knows. The event tells
    that this was done."""
    drained, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not gate.holds():
            if over.is_set():
                return
        drain(cluster, node_id)
        time.sleep(NOTICE_SECONDS)
        drained.set()
        gate.open()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield drained
    finally:
        over.set()
        thread.join()


def drain(cluster: Cluster, node_id: str) -> None:
    """What an autoscaler or a cloud's interruption notice comes to."""
    command = [Path(sys.executable).parent / "ray", "drain-node", "--address", cluster.address]
    command += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    subprocess.run([*command, "--deadline-remaining-seconds", "600"], check=True, capture_output=True)
