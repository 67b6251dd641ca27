"""Stages that run in this process, one after the other, as a driver would run them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts.refs import ArtifactRef
from pipeline.dag.nodes import Dag, node_key, resolve_inputs
from pipeline.dag.plan import plan
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from workers.context import Made, StageContext, Step
from workers.harness.asker import Asker
from workers.places import PLACES
from workers.settings import WorkerSettings

PRUNE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}


@dataclass
class StageRuns:
    """One job on `file:` sources. `said`: all steps that the stages yielded, without Made."""

    settings: WorkerSettings
    order: WorkOrder
    dag: Dag
    made: dict[str, dict[str, ArtifactRef]] = field(default_factory=dict)
    said: list[Step] = field(default_factory=list)
    asker: Asker = field(default_factory=Asker)

    def run(self, *nodes: str) -> "StageRuns":
        """Run some nodes, in this order."""
        for name in nodes:
            node = self.dag[name]
            inputs = resolve_inputs(node, self.made)
            key = node_key(node, self.made)
            assert inputs is not None
            assert key is not None
            context = StageContext(
                node=name, key=key, order=self.order, inputs=inputs, earlier=(), settings=self.settings
            )
            place = PLACES[node.stage.kind]
            given = (self.asker,) if place.where == "asker" else ()
            for step in place.run(node.stage, context, *given):
                if isinstance(step, Made):
                    self.made[name] = dict(step.artifacts)
                else:
                    self.said.append(step)
        return self

    def file(self, node: str, artifact: str, path: str) -> bytes:
        """One file of an artifact of a node."""
        return self.settings.content().get_bytes(self.made[node][artifact].file(path))


def stage_runs(
    root: Path,
    *,
    model: Path,
    tasks: dict[str, Any] | None = None,
    prune: dict[str, Any] = PRUNE,
    parts: dict[str, Any] | None = None,
    **settings: Any,
) -> StageRuns:
    """A job below `root`, which may ask for lm-eval tasks. `parts`: further parts of the spec, or others."""
    known = WorkerSettings.model_validate(
        {"storage_url": f"file://{root}/storage", "allowed_roots": (Path("/"),), **settings}
    )
    request = JobRequest.model_validate(
        {
            "spec": {
                "model": {"source": f"file:{model}"},
                "prune": prune,
                "evaluation": {} if tasks is None else {"tasks": tasks},
                **(parts or {}),
            }
        }
    )
    pins = resolve(request.spec, known.access())
    return StageRuns(
        settings=known,
        order=WorkOrder(job="job-x", attempt=1, request=request, pins=pins),
        dag=plan(request.spec, pins),
    )


def of_kind(steps: list[Step], kind: type[Any]) -> Iterator[Any]:
    """The steps of one kind."""
    return (step for step in steps if isinstance(step, kind))


def include(directory: Path, **files: str) -> dict[str, Any]:
    """An include directory with task files by name, and three questions in `questions.jsonl`."""
    directory.mkdir(exist_ok=True)
    rows = [{"q": f"What is {i}?", "right": i % 2} for i in range(3)]
    (directory / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return {"include": f"file:{directory}"}


def question_file(name: str, **changes: str) -> str:
    """A task file on `questions.jsonl`."""
    fields = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": "{data_files: {validation: questions.jsonl}}",
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "'{{q}}'",
        "doc_to_choice": "['yes', 'no']",
        "doc_to_target": "right",
        **changes,
    }
    return "".join(f"{key}: {value}\n" for key, value in fields.items())
