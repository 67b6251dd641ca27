"""Which stages start when, and what becomes of errors."""

import pickle

import pytest
import ray.exceptions

from pipeline.dag import Dag, plan
from pipeline.errors import CorruptObject, InvalidSpec, StorageUnavailable
from pipeline.schedule import next_actions
from pipeline.sources.pins import ModelFacts, Pin, Pins
from pipeline.spec import PruneSpec
from workers.failures import may_go_on, reason_for
from workers.job import startable
from workers.placement import PLACES

TEXT = "file:/t.txt"


def dag() -> Dag:
    spec = PruneSpec.model_validate(
        {
            "model": {"source": "file:/m"},
            "calibration": {"source": TEXT},
            "prune": {
                "method": {"kind": "wanda"},
                "allocation": {"kind": "owl"},
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "evaluation": {"perplexity": [{"source": TEXT}]},
        }
    )
    pin = Pin(source="file:/m", files=())
    facts = ModelFacts(model_type="llama", blocks=1, max_positions=None)
    return plan(spec, Pins(model=pin, facts=facts, calibration=pin, perplexity=(pin,)))


def test_every_stage_runs_once_and_the_gang_never_starts_beside_a_task_that_needs_a_cpu() -> None:
    graph = dag()
    assert {node.stage.kind for node in graph.nodes} == set(PLACES)
    done: list[str] = []
    order = []
    while len(done) < len(graph.nodes):
        running: list = []
        ready = next_actions(graph, done=done, started=())
        while batch := [n for n in startable(ready, running) if n not in running]:
            running += batch
        assert running, f"nothing starts after {done}"
        where = {PLACES[node.stage.kind].where for node in running}
        assert not {"gang", "task"} <= where, running
        order.append([node.id for node in running])
        done += [node.id for node in running]
    assert order[:3] == [["import_model"], ["calibrate"], ["measure_outliers", "evaluate:dense"]]


@pytest.mark.parametrize(
    ("error", "code", "again_here", "again_later"),
    [
        (ray.exceptions.ActorDiedError(), "worker_lost", True, True),
        (ray.exceptions.WorkerCrashedError(), "worker_lost", True, True),
        (StorageUnavailable("away"), "storage_unavailable", True, True),
        (CorruptObject("blob"), "corrupt_object", False, False),
        (InvalidSpec("no", "spec.x"), "invalid_spec", False, False),
        (ZeroDivisionError("x"), "internal_error", False, True),
    ],
)
def test_errors_tell_whether_to_try_again(error, code, again_here, again_later) -> None:
    reason = reason_for(error, node="prune")
    assert (reason.code, reason.retryable, reason.node) == (code, again_later, "prune")
    assert may_go_on(error) is again_here


def test_errors_cross_process_borders_whole() -> None:
    error = pickle.loads(pickle.dumps(InvalidSpec("no", "spec.x")))  # noqa: S301 - our own bytes
    assert (type(error), error.message, error.param) == (InvalidSpec, "no", "spec.x")
