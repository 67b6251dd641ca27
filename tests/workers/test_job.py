"""Which stages start when, and what becomes of errors."""

import pickle

import pytest
import ray.exceptions

from pipeline.dag.next_actions import next_actions
from pipeline.dag.nodes import Dag
from pipeline.dag.plan import plan
from pipeline.errors import CorruptObject, InvalidSpec, StorageUnavailable
from pipeline.request.prune_spec import PruneSpec
from tests.made_pins import made_pins
from workers.failures import reason_for
from workers.job import startable
from workers.places import PLACES

TEXT = "file:/t.txt"


TOURNAMENT = {"kind": "tournament", "candidates": [{"kind": "dlp"}]}


def dag(allocation: dict = {"kind": "owl"}, **changes: object) -> Dag:  # noqa: B006 - nobody changes it
    spec = PruneSpec.model_validate(
        {
            "model": {"source": "file:/m"},
            "calibration": {"source": TEXT},
            "prune": {
                "method": {"kind": "wanda"},
                "allocation": allocation,
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "recovery": {"text": {"source": TEXT}, "steps": 100},
            "evaluation": {"perplexity": [{"source": TEXT}], "tasks": {"tasks": ["a", "b", "c"]}},
            **changes,
        }
    )
    return plan(spec, made_pins(spec))


def learning() -> Dag:
    """Masks that are learned from stored ones."""
    training = {"text": {"source": TEXT}, "steps": 100}
    method = {
        "kind": "maskllm",
        "prior": {"kind": "stored", "source": "file:/masks.safetensors"},
        "training": training,
    }
    return dag(prune={"method": method, "pattern": {"kind": "nm", "keep": 2, "group": 4}})


def test_every_stage_runs_once_and_the_gang_never_starts_beside_a_task_that_needs_a_cpu() -> None:
    graph = dag()
    sweep = dag(recovery=None, sweep={"sparsities": [0.5, 0.6]})
    vocabulary = {"size": 64, "texts": [{"source": TEXT}]}
    cut = dag(structure={"drop_blocks": {"kind": "spaced", "num_blocks": 1}, "vocabulary": vocabulary})
    own = dag(
        calibration={"source": "self", "prompts": ["The gardener"]},
        evaluation={"behaviour": {"prompts": ["The gardener"]}},
    )
    served = dag(target={"kind": "llama.cpp"})
    rounded = dag(quantize=[{"kind": "gptq", "weights": "int4", "group_size": 32}])
    others = (own, dag(TOURNAMENT), sweep, cut, learning(), served, rounded)
    every = [node for one in (graph, *others) for node in one.nodes]
    assert {node.stage.kind for node in every} == set(PLACES)
    done: list[str] = []
    order = []
    while len(done) < len(graph.nodes):
        running: list = []
        ready = next_actions(graph, done=done, started=())
        ahead = [node for node in graph.nodes if node.id not in done]
        while batch := [n for n in startable(ready, running, ahead=ahead, workers=2) if n not in running]:
            running += batch
        assert running, f"nothing starts after {done}"
        where = {PLACES[node.stage.kind].where for node in running}
        assert not {"gang", "task"} <= where, running
        assert not {"gang", "worker"} <= where, running
        assert sum(PLACES[node.stage.kind].where == "worker" for node in running) <= 2
        order.append([node.id for node in running])
        done += [node.id for node in running]
    assert order[:3] == [
        ["import_model", "check_tasks"],
        ["prepare_text", "calibrate"],
        ["measure_statistics", "evaluate:dense"],
    ]
    evaluated = [f"tasks:{which}:{name}" for which in ("dense", "pruned", "recovered") for name in "abc"]
    pairs = [evaluated[i : i + 2] for i in range(0, len(evaluated), 2)]
    assert order[-8:] == [*pairs, ["publish"], ["verify"], ["report"]]


@pytest.mark.parametrize("workers", [1, 2, 3, 6, 100])
def test_tasks_wait_for_the_whole_gang_and_then_fill_its_places(workers: int) -> None:
    """Also while nobody of the gang is ready or runs: between two of its stages there may be a small one."""
    graph = dag()
    asked = [node for node in graph.nodes if node.stage.kind == "evaluate_task"]
    gang = [node for node in graph.nodes if PLACES[node.stage.kind].where in ("gang", "training")]
    assert startable(asked, [], ahead=[*asked, gang[-1]], workers=workers) == []
    assert startable(asked, [], ahead=asked, workers=workers) == asked[:workers]
    running = asked[: workers - 1]
    assert len(startable(asked[workers - 1 :], running, ahead=asked, workers=workers)) == min(
        1, len(asked[workers - 1 :])
    )


@pytest.mark.parametrize(
    ("error", "code", "again"),
    [
        (ray.exceptions.ActorDiedError(), "worker_lost", True),
        (ray.exceptions.WorkerCrashedError(), "worker_lost", True),
        (StorageUnavailable("away"), "storage_unavailable", True),
        (CorruptObject("blob"), "corrupt_object", False),
        (InvalidSpec("no", "spec.x"), "invalid_spec", False),
        (ZeroDivisionError("x"), "internal_error", False),
    ],
)
def test_errors_tell_whether_to_try_again(error, code, again) -> None:
    reason = reason_for(error, node="prune")
    assert (reason.code, reason.retryable, reason.node) == (code, again, "prune")


def test_errors_cross_process_borders_whole() -> None:
    error = pickle.loads(pickle.dumps(InvalidSpec("no", "spec.x")))  # noqa: S301 - our own bytes
    assert (type(error), error.message, error.param) == (InvalidSpec, "no", "spec.x")
