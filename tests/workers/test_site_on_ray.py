"""A real Ray, whose GPUs are numbers only: stages wait with a reason, processes with GPUs are not used again,
and one process asks the tasks of a checkpoint."""

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from pipeline.dag.nodes import node_key, resolve_inputs
from pipeline.errors import OutOfMemory, ResourcesUnavailable
from pipeline.request.resources import Resources
from tests.workers.stage_runs import StageRuns, include, question_file, stage_runs
from tests.workers.test_asker import without_weights
from workers import kills
from workers.context import Made, Note, StageContext
from workers.gang.site import RaySite
from workers.kills import Began, killed_for_memory
from workers.waiting import FIXED, check_possible, gave_up, why_waiting

pytestmark = pytest.mark.e2e
VERIFY: Any = SimpleNamespace(kind="verify")  # a stage that fails as soon as it begins


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One node, which says that it has two GPUs."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=2,
            resources={"accelerator_type:H100": 1},
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=directory,
        )
        yield
        ray.shutdown()


def site(**resources: Any) -> RaySite:
    request = SimpleNamespace(resources=Resources.model_validate({"memory_per_worker": "1GiB", **resources}))
    order: Any = SimpleNamespace(request=request, job="job", attempt=1)
    return RaySite(order)


def context() -> Any:
    return SimpleNamespace(title="nowhere")


def test_a_process_with_a_gpu_is_not_used_again(cluster: None) -> None:
    place = site(evaluation={"gpus_per_worker": 1, "cpus_per_worker": 1, "accelerator_type": "H100"})
    processes = []
    for _ in range(3):
        with pytest.raises(RayTaskError) as caught:
            list(place.launch(VERIFY, context()))
        processes += re.findall(r"\(pid=(\d+)", str(caught.value))
    assert len(set(processes)) == 3


def test_a_kind_of_gpu_that_is_not_there_is_waited_for_with_the_reason(cluster: None) -> None:
    asked = {"gpus_per_worker": 1, "cpus_per_worker": 1, "accelerator_type": "A100"}
    place = site(evaluation=asked, placement_timeout_seconds=1)
    steps = place.launch(VERIFY, context())
    note = next(steps)
    assert isinstance(note, Note)
    assert "1 A100 GPUs" in note.text
    assert "have room for 0 such workers" in note.text
    assert "for at most 1 s" in note.text
    with pytest.raises(ResourcesUnavailable) as caught:
        next(steps)
    assert caught.value.param == "resources.workers"
    assert "resources.placement_timeout_seconds" in caught.value.message


def test_only_a_cluster_that_never_grows_refuses_at_once(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Resources(workers=3, cpus_per_worker=1, memory_per_worker="1GiB").of("pruning")
    check_possible(share)
    assert "until the cluster has more nodes" in why_waiting(share)
    assert "room for 2 such workers" in gave_up(share).message
    nodes = [{**node, "Labels": FIXED} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    check_possible(share, workers=2)
    with pytest.raises(ResourcesUnavailable, match="never grows, and has room for 2 of 3 workers"):
        check_possible(share)


def test_a_death_is_out_of_memory_if_the_kernel_has_counted_one(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is really killed. What the kernel counts on the node is given."""

    @ray.remote(num_cpus=0)
    class Victim:
        def place(self) -> Began:
            return Began(node=ray.get_runtime_context().get_node_id(), kills=4)

        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    victim: Any = Victim.remote()  # type: ignore[attr-defined]
    began = ray.get(victim.place.remote())
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(victim.die.remote())
    for counted, memory in ((4, False), (5, True)):
        monkeypatch.setattr(kills, "kernel_kills", _counting(counted))
        assert killed_for_memory(caught.value, [began]) is memory
    monkeypatch.setattr(kills, "kernel_kills", _counting(5))
    assert not killed_for_memory(caught.value, [Began(node="gone", kills=4)])
    assert isinstance(kills.ended_by_kernel("prune", None), OutOfMemory)


def _counting(count: int) -> Any:
    return lambda: count


def test_tasks_of_a_checkpoint_are_asked_by_one_process(cluster: None, model: Path, tmp_path: Path) -> None:
    names = ["first", "second"]
    tasks = {**include(tmp_path / "tasks", **{name: question_file(name) for name in names}), "tasks": names}
    runs = stage_runs(tmp_path, model=model, tasks=tasks).run("import_model", "check_tasks")
    place = RaySite(runs.order)
    assert made(runs, place, "tasks:dense:first")
    without_weights(runs)
    assert made(runs, place, "tasks:dense:second"), "the process had loaded the weights"
    with pytest.raises(RayTaskError):  # any other stage ends it, to have its place
        list(place.launch(VERIFY, context()))
    with pytest.raises(Exception, match="blob"):
        made(runs, place, "tasks:dense:second")


def made(runs: StageRuns, place: RaySite, name: str) -> bool:
    node = runs.dag[name]
    inputs, key = resolve_inputs(node, runs.made), node_key(node, runs.made)
    assert inputs is not None
    assert key is not None
    there = StageContext(
        node=name, key=key, order=runs.order, inputs=inputs, earlier=(), settings=runs.settings
    )
    steps = list(place.launch(node.stage, there))
    return isinstance(steps[-1], Made)
