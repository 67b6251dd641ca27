"""lm-eval's dictionaries of results and of samples become TaskResults and TaskSamples."""

import math
import numbers
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.canonical import digest_of
from pipeline.dag.stages.results import EvaluateTask
from pipeline.errors import NumericalError, StageError
from pipeline.evaluation.task_results import TaskContract, TaskMetric, TaskResult
from pipeline.evaluation.task_samples import MetricValues, TaskSamples, TaskValues
from pipeline.spec.eval_tasks import CheckedTask, LeafTask

NO_METRICS = ("name", "alias", "sample_len", "sample_count")
DIGITS = 16  # of a document's digest
Samples = Mapping[str, Sequence[Mapping[str, Any]]]


def task_results(
    stage: EvaluateTask,
    checked: CheckedTask,
    results: Mapping[str, Any],
    *,
    samples: TaskSamples,
    task_digest: str,
    tokenizer_digest: str,
    max_length: int,
    device: str,
    engine: str | None = None,
) -> tuple[TaskResult, ...]:
    """The results of a task: groups first, each before its members. Raises NumericalError for a figure that
    is not finite."""
    groups = results.get("group_subtasks", {})
    found = []
    for name in _in_order(results["results"], groups):
        metrics = tuple(_metrics(name, results))
        if not metrics:
            continue  # a group without a mean of its own
        leaf = next((leaf for leaf in checked.leaves if leaf.name == name), None)
        asked = next((values.documents for values in samples.leaves if values.task == name), None)
        contract = TaskContract(
            harness_version=checked.harness_version,
            task_version=str(results["versions"].get(name)),
            task_digest=task_digest,
            dataset_revision=leaf.revision if leaf is not None else None,
            num_fewshot=results["n-shot"].get(name),
            limit=stage.task.limit,
            samples=results["results"][name]["sample_len"],
            batch_size=stage.batch_size,
            seed=stage.seed,
            dtype=stage.compute_dtype,
            max_length=max_length,
            tokenizer_digest=tokenizer_digest,
            bos=stage.bos,
            dataset=_dataset(leaf) if leaf is not None else None,
            split=_split(results, name),
            documents_digest=digest_of(list(asked)) if asked is not None else None,
            device=device,
            engine=engine,
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


def task_samples(
    results: Mapping[str, Any], samples: Samples, *, task: str, checkpoint_digest: str
) -> TaskSamples:
    """The values of each document. lm-eval has a record for each document and filter."""
    groups = results.get("group_subtasks", {})
    return TaskSamples(
        checkpoint_digest=checkpoint_digest,
        task=task,
        leaves=tuple(_values(name, records) for name, records in sorted(samples.items()) if records),
        groups={name: tuple(_leaves(name, groups)) for name in groups if name in results["results"]},
    )


def _values(name: str, records: Sequence[Mapping[str, Any]]) -> TaskValues:
    by_filter: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_filter.setdefault(record["filter"], []).append(record)
    metrics = []
    for chosen, asked in by_filter.items():
        asked.sort(key=lambda record: record["doc_id"])
        for metric in asked[0]["metrics"]:
            values = [record[metric] for record in asked]
            if all(_is_figure(value) and math.isfinite(value) for value in values):
                metrics.append(
                    MetricValues(metric=metric, filter=chosen, values=tuple(float(value) for value in values))
                )
    documents = tuple(str(record["doc_hash"])[:DIGITS] for record in next(iter(by_filter.values())))
    return TaskValues(task=name, documents=documents, metrics=tuple(metrics))


def _leaves(name: str, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """The question sets at or below a name."""
    if not groups.get(name):
        yield name
    for member in groups.get(name, []):
        yield from _leaves(member, groups)


def _dataset(leaf: LeafTask) -> str:
    return leaf.dataset if leaf.config is None else f"{leaf.dataset}, {leaf.config}"


def _split(results: Mapping[str, Any], name: str) -> str | None:
    """The split that the questions are from: lm-eval asks the test split if there is one."""
    config = results.get("configs", {}).get(name, {})
    split = config.get("test_split") or config.get("validation_split")
    return split if isinstance(split, str) else None


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


def _is_figure(value: object) -> bool:
    """Tell whether a document's value is a number; the value of an accuracy may be a truth value."""
    return isinstance(value, numbers.Real)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
