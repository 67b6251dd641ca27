"""A stage whose machines are taken away one after the other, as announced, loses none of its tries."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import secateur
from pipeline.dag.next_actions import MAX_STAGE_TRIES
from pipeline.errors import MachineLeaves, WorkerLost
from pipeline.job.events import EventBody
from tests.models import tiny_checkpoint
from workers.stages import allocate

SPEC = {
    "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
    "evaluation": {"perplexity": []},
}


@pytest.mark.usefixtures("opened_here")
def test_leaving_costs_no_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = allocate.run, [*range(2 * MAX_STAGE_TRIES)]

    def run(*arguments: object) -> Iterator[object]:
        if left:
            left.pop()
            raise MachineLeaves("the machine of a worker is about to be taken away")
        yield from real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(allocate, "run", run)
    tiny_checkpoint("llama", tmp_path / "model")
    told: list[EventBody] = []
    secateur.prune(tmp_path / "model", SPEC, tmp_path / "out", threads=1, told=told.append)
    codes = [one.reason.code for one in told if one.type == "stage.retried"]
    assert codes == ["machine_leaves"] * 2 * MAX_STAGE_TRIES
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.usefixtures("opened_here")
def test_machines_that_die_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object) -> Iterator[object]:
        raise WorkerLost("a worker died")
        yield

    monkeypatch.setattr(allocate, "run", run)
    monkeypatch.setattr("workers.job.MAX_STAGE_TRIES", 1)
    tiny_checkpoint("llama", tmp_path / "model")
    with pytest.raises(WorkerLost):
        secateur.prune(tmp_path / "model", SPEC, tmp_path / "out", threads=1)
