"""The protocol through which the sections of a report read the artifacts of its job."""

from collections.abc import Mapping
from typing import Protocol

from pipeline.artifacts.artifact import Document
from pipeline.artifacts.refs import ArtifactRef
from pipeline.evaluation.task_pairs import TaskPair, paired_tasks
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged, TaskSamples
from pipeline.job.ledger import NodeResult
from pipeline.request.prune_spec import PruneSpec

MODELS = ("dense", "pruned", "recovered")


class Inputs(Protocol):
    """The artifacts that a report takes, by the names that its node in the DAG gives them."""

    @property
    def spec(self) -> PruneSpec:
        """The spec of the job."""

    @property
    def stages(self) -> tuple[NodeResult, ...]:
        """All nodes that were done before the report."""

    @property
    def refs(self) -> Mapping[str, ArtifactRef]:
        """All artifacts by name."""

    def load(self, name: str, document: type[Document]) -> Document:
        """A document of an artifact. Raises KeyError where the job lacks it."""

    def find(self, name: str, document: type[Document]) -> Document | None:
        """A document of an artifact; None where the job has no such artifact, or the artifact lacks it."""


def task_evaluations(inputs: Inputs, which: str, *, member: str = "") -> tuple[TaskEvaluation, ...]:
    """lm-eval's figures of a model, in the order of the spec; missing ones are left out. `member`: the ending
    of the artifacts' names for one member of a sweep."""
    return tuple(one.evaluation for one in _judged(inputs, which, member=member))


def task_pairs(inputs: Inputs, which: str, *, member: str = "") -> tuple[TaskPair, ...]:
    """The paired differences between a model and the dense one; none where one of them lacks a task."""
    dense, other = _judged(inputs, "dense"), _judged(inputs, which, member=member)
    if len(dense) != len(other):
        return ()
    asked = inputs.spec.evaluation.tasks
    return paired_tasks(dense, other, suite=asked.suite if asked is not None else None)


def _judged(inputs: Inputs, which: str, *, member: str = "") -> tuple[Judged, ...]:
    asked = inputs.spec.evaluation.tasks
    names = [f"tasks:{which}:{task.name}{member}" for task in asked.asked] if asked is not None else []
    found = [(inputs.find(name, TaskEvaluation), inputs.find(name, TaskSamples)) for name in names]
    return tuple(Judged(one, samples) for one, samples in found if one is not None)
