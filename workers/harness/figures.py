"""lm-eval's dictionary of results becomes TaskResults."""

import math
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.dag.stages.results import EvaluateTask
from pipeline.errors import NumericalError, StageError
from pipeline.evaluation.task_results import TaskContract, TaskMetric, TaskResult
from pipeline.spec.eval_tasks import CheckedTask

NO_METRICS = ("name", "alias", "sample_len", "sample_count")


def task_results(
    stage: EvaluateTask,
    checked: CheckedTask,
    results: Mapping[str, Any],
    *,
    task_digest: str,
    tokenizer_digest: str,
    max_length: int,
) -> tuple[TaskResult, ...]:
    """The results of a task: groups first, each before its members. Raises NumericalError for a figure that
    is not finite."""
    groups = results.get("group_subtasks", {})
    found = []
    for name in _in_order(results["results"], groups):
        metrics = tuple(_metrics(name, results))
        if not metrics:
            continue  # a group without a mean of its own
        revisions = {leaf.name: leaf.revision for leaf in checked.leaves}
        contract = TaskContract(
            harness_version=checked.harness_version,
            task_version=str(results["versions"].get(name)),
            task_digest=task_digest,
            dataset_revision=revisions.get(name),
            num_fewshot=results["n-shot"].get(name),
            limit=stage.task.limit,
            samples=results["results"][name]["sample_len"],
            batch_size=stage.batch_size,
            seed=stage.seed,
            dtype=stage.compute_dtype,
            max_length=max_length,
            tokenizer_digest=tokenizer_digest,
        )
        found.append(
            TaskResult(
                task=name,
                group=None if name == checked.name else checked.name,
                aggregate=name in groups,
                contract=contract,
                metrics=metrics,
            )
        )
    if not found:
        raise StageError(f"lm-eval gave no figures for task {checked.name!r}")
    return tuple(found)


def _in_order(results: Mapping[str, Any], groups: Mapping[str, list[str]]) -> list[str]:
    """All names, with members after their group."""
    members = {member for children in groups.values() for member in children}
    ordered: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in results:
            ordered.setdefault(name)
        for member in groups.get(name, []):
            visit(member)

    for name in [*groups, *results]:
        if name not in members:
            visit(name)
    return list(ordered)


def _metrics(name: str, results: Mapping[str, Any]) -> Iterator[TaskMetric]:
    """Yield the figures under one name. Other values, such as texts, stay in lm-eval's own file."""
    values = results["results"][name]
    better = results["higher_is_better"].get(name, {})
    for key, value in values.items():
        metric, _, chosen = key.partition(",")
        if key in NO_METRICS or metric.endswith("_stderr") or not _is_number(value):
            continue
        if not math.isfinite(value):
            raise NumericalError(
                f"{metric} of task {name!r} is {float(value)}: the model's likelihoods are no numbers, or "
                f"too small ones; prune less, or set compute_dtype to bfloat16 or float32 if it is float16"
            )
        stderr = values.get(f"{metric}_stderr,{chosen}")
        known = better.get(metric)
        yield TaskMetric(
            metric=metric,
            filter=chosen or "none",
            value=float(value),
            stderr=float(stderr) if _is_number(stderr) and math.isfinite(stderr) else None,
            higher_is_better=known if isinstance(known, bool) else None,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
