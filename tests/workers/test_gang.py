"""Actors of a real Ray exchange what is large among themselves; a failure of one ends the turn of all."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from pipeline.allocations import Uniform
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.crew import CrewUse
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.pruning import PrunedBlocks, Pruning, prune_blocks
from pipeline.blocks.steps import Note, Progress, run_through
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.errors import NumericalError, SecateurError, WorkerLost
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.request.resources import Resources
from pipeline.spec.patterns import Unstructured
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.storage.content import ContentStore
from pipeline.storage.progress import StageProgress
from pipeline.tensor.statistics import Gram, share_edges
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples
from workers.failures import error_of
from workers.gang.crew import RayCrew, SweepActor
from workers.gang.gang import Gang
from workers.leaving import leaving_nodes
from workers.settings import WorkerSettings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster", "one_thread", "no_gradients")]

Opened = Callable[..., RayCrew]
WORKERS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(address="local", num_cpus=WORKERS, **quiet)
    yield
    ray.shutdown()


@pytest.fixture
def model(tmp_path: Path) -> tuple[ContentStore, CheckpointRef]:
    return imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")


@pytest.fixture
def gang() -> Iterator[Gang]:
    """A gang of its own for each test."""
    with hired() as found:
        yield found


@contextlib.contextmanager
def hired(**elsewhere: float) -> Iterator[Gang]:
    """A gang whose actors have met. `elsewhere`: what its second actor needs beside a CPU."""
    group = placement_group([{"CPU": 1}, {"CPU": 1, **elsewhere}])
    ray.get(group.ready())
    hiring = SweepActor.options(num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    actors = [hiring.remote(threads=1, cuda=False) for _ in range(WORKERS)]
    found = Gang(group, actors, whole_gpus=False)
    found.ready()
    yield found
    found.dismiss()


@pytest.fixture
def opened(gang: Gang, model: tuple[ContentStore, CheckpointRef], tmp_path: Path) -> Opened:
    """Opens the gang for a stage on the model."""
    return lambda: crew_of(gang, model[1], tmp_path)


def crew_of(gang: Gang, checkpoint: CheckpointRef, tmp_path: Path) -> RayCrew:
    """The gang as the crew of a stage."""
    settings = WorkerSettings.model_validate(
        {"storage_url": f"file://{tmp_path}/store", "allowed_roots": (tmp_path,)}
    )
    tokens = samples()
    edges = share_edges(len(tokens), WORKERS)
    shared = {"samples": len(tokens), "share": Resources(memory_per_worker="1GiB").of("pruning")}
    for actor, first, end in zip(gang._actors, edges[:-1], edges[1:], strict=True):
        given = settings, checkpoint, tokens[first:end], "float32"
        ray.get(actor.open.remote(*given, first=first, **shared))
    return gang.crew(title="test")


def pruning(model: tuple[ContentStore, CheckpointRef], *, epochs: int, reproducible: bool = True) -> Pruning:
    pattern = Unstructured(sparsity=0.5)
    return Pruning(
        method=SparseGPT(),
        plan=Uniform().plan(pattern, prunable_weights(*model), measured=()),
        propagation="pruned",
        samples=len(samples()),
        reconstruction=BlockReconstruction(epochs=epochs, samples_per_step=4),
        reproducible=reproducible,
    )


def pruned(crew: RayCrew | LocalCrew, asked: Pruning) -> tuple[PrunedBlocks, CrewUse]:
    made = run_through(prune_blocks(crew, asked))
    return made, crew.use()


def test_the_bits_of_one_process_and_nothing_but_the_samples_in_ray(
    opened: Opened, model: tuple[ContentStore, CheckpointRef]
) -> None:
    alone, local = pruned(LocalCrew(*model, samples()), pruning(model, epochs=2))
    made, use = pruned(opened(), pruning(model, epochs=2))
    assert made.blocks == alone.blocks
    assert (local.carried_bytes, local.exchanged_bytes) == (0, 0)

    _, less = pruned(opened(), pruning(model, epochs=1))
    assert use.exchanged_bytes > less.exchanged_bytes
    worker = SweepWorker(*model, [], dtype=torch.float32, device=torch.device("cpu"))
    worker.load(0)
    widths = [next(iter(group.values()))[1] for group in worker.sized_groups()]
    assert use.carried_bytes == sum(one.nbytes for one in samples())  # what was given to the gang at first
    assert less.exchanged_bytes > len(made.blocks) * sum(4 * width**2 for width in widths)

    in_any_order, _ = pruned(opened(), pruning(model, epochs=2, reproducible=False))
    for one, other in zip(in_any_order.blocks, alone.blocks, strict=True):
        assert one.fit is not None
        assert other.fit is not None
        assert one.fit.after == pytest.approx(other.fit.after, rel=0.1)


def test_the_error_of_one_is_raised_while_another_waits_for_it(opened: Opened) -> None:
    crew = opened()
    crew.tell(SweepWorker.load, 0)
    crew.ask(1, _fails)
    crew.sum_up(_part, _take, range(WORKERS))
    with pytest.raises(Exception, match="planted") as raised:
        crew.wait([])
    assert isinstance(error_of(raised.value), NumericalError)
    with pytest.raises(RayActorError):  # nobody may wait for actors that wait for ever
        ray.get([actor.use.remote() for actor in crew._actors])


def test_the_death_of_one_is_raised_while_another_waits_for_it(opened: Opened) -> None:
    crew = opened()
    crew.sum_up(_dies, _take, range(WORKERS))
    with pytest.raises(Exception) as raised:  # noqa: PT011 - Ray's or gloo's, by what is noticed first
        crew.wait([])
    known: SecateurError = error_of(raised.value)
    assert known.retryable, known
    assert known.code in ("worker_lost", "machine_failed")


def test_before_a_node_is_taken_away_what_is_done_is_stored_and_none_of_it_is_done_again(
    model: tuple[ContentStore, CheckpointRef], tmp_path: Path
) -> None:
    """The node gets the signal that Kubernetes sends to a pod, and ends by itself once nobody needs it."""
    asked = pruning(model, epochs=1)
    alone, undisturbed = pruned(LocalCrew(*model, samples()), asked)
    progress = StageProgress(model[0], "0" * 64, snapshot_seconds=3600)
    with joined("going") as node:
        with hired(going=1) as gang:
            crew = crew_of(gang, model[1], tmp_path)
            assert not crew.leaving()
            node.terminate()
            while not leaving_nodes():
                assert node.poll() is None
                time.sleep(0.1)
            with pytest.raises(WorkerLost, match="about to be taken away; 1 of 4 blocks are stored"):
                run_through(prune_blocks(crew, asked, progress=progress))
            before = crew.use()
        node.wait()
    with hired() as gang:
        crew = crew_of(gang, model[1], tmp_path)
        said: list[Progress | Note] = []
        made = run_through(prune_blocks(crew, asked, progress=progress), said.append)
        after = crew.use()
    assert made.blocks == alone.blocks
    assert before.forwards + after.forwards == undisturbed.forwards
    assert before.cut_forwards + after.cut_forwards == undisturbed.cut_forwards
    assert said[0] == Note("1 of 4 blocks are stored already; going on from block 1")


@contextlib.contextmanager
def joined(resource: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One more node, which has one CPU and a resource. Yields the process that began it."""
    address = ray.get_runtime_context().gcs_address
    command = [Path(sys.executable).parent / "ray", "start", "--block", f"--address={address}"]
    command += ["--num-cpus=1", f'--resources={{"{resource}": 1}}', f"--object-store-memory={80 * 2**20}"]
    environment = {**os.environ, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "600"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as own:
        command.append(f"--temp-dir={own}")  # elsewhere, `ray start` tells every later Ray to join this one
        with subprocess.Popen(command, env=environment, **quiet) as node:
            try:
                yield node
            finally:
                node.kill()


def _part(worker: SweepWorker) -> Gram:
    return {(0, worker._first): torch.ones(3)}


def _take(worker: SweepWorker, total: Tensor) -> None:
    assert total.shape == (3,)


def _fails(worker: SweepWorker) -> None:
    raise NumericalError("planted")


def _dies(worker: SweepWorker) -> Gram:
    if worker._first > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return _part(worker)
