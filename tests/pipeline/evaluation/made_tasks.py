"""Figures of lm-eval tasks in the form of real evaluations."""

from typing import Any

from pipeline.canonical import sha256_hex
from pipeline.evaluation.task_results import TaskContract, TaskEvaluation, TaskMetric, TaskResult
from pipeline.report.data import ReportData
from pipeline.spec.eval_tasks import LM_EVAL_VERSION, SUITES, EvalTasks


def made_contract(task: str, **changes: Any) -> TaskContract:
    """A contract with all questions and no examples."""
    fields = {
        "harness_version": LM_EVAL_VERSION,
        "task_version": "1.0",
        "task_digest": sha256_hex(task.encode()),
        "dataset_revision": "0" * 40,
        "num_fewshot": 0,
        "limit": None,
        "samples": 100,
        "batch_size": 8,
        "seed": 1234,
        "dtype": "float32",
        "max_length": 2048,
        "tokenizer_digest": sha256_hex(b"tokenizer"),
    }
    return TaskContract.model_validate({**fields, **changes})


def made_task(
    task: str,
    *,
    group: str | None = None,
    aggregate: bool = False,
    limit: int | None = None,
    **metrics: float,
) -> TaskResult:
    """A result with metrics by name, each with a standard error of 0.02."""
    return TaskResult(
        task=task,
        group=group,
        aggregate=aggregate,
        contract=made_contract(task, limit=limit, samples=limit or 100),
        metrics=tuple(
            TaskMetric(
                metric=name, filter="none", value=value, stderr=0.02, higher_is_better=name != "perplexity"
            )
            for name, value in metrics.items()
        ),
    )


def evaluated(checkpoint: str, *results: TaskResult) -> TaskEvaluation:
    """Results under the name of the first."""
    return TaskEvaluation(checkpoint_digest=checkpoint, task=results[0].task, results=results)


def made_tasks(
    checkpoint: str, *, shift: float = 0.0, limit: int | None = None
) -> tuple[TaskEvaluation, ...]:
    """A task, a group with a mean and two members, and one where less is better."""
    return (
        evaluated(checkpoint, made_task("arc_easy", acc=0.6 + shift, acc_norm=0.55 + shift, limit=limit)),
        evaluated(
            checkpoint,
            made_task("mmlu", aggregate=True, acc=0.3 + shift, limit=limit),
            made_task("mmlu_stem", group="mmlu", aggregate=True, acc=0.32 + shift, limit=limit),
            made_task("mmlu_anatomy", group="mmlu", acc=0.28 + shift, limit=limit),
        ),
        evaluated(
            checkpoint, made_task("lambada_openai", perplexity=12.0 - 10 * shift, acc=0.4, limit=limit)
        ),
    )


def made_suite(checkpoint: str, *, shift: float = 0.0) -> tuple[TaskEvaluation, ...]:
    """The whole of openba, every task at 0.5."""
    return tuple(evaluated(checkpoint, made_task(name, acc=0.5 + shift)) for name in SUITES["openba"])


def with_tasks(data: ReportData, *, limit: int | None = None) -> ReportData:
    """A report with tasks, in which the pruned model lost a quarter everywhere."""
    asked = EvalTasks.model_validate({"tasks": ["arc_easy", "mmlu", "lambada_openai"], "limit": limit})
    evaluation = data.spec.evaluation.model_copy(update={"tasks": asked})
    return data.model_copy(
        update={
            "spec": data.spec.model_copy(update={"evaluation": evaluation}),
            "dense_tasks": made_tasks(data.dense.checkpoint_digest, limit=limit),
            "pruned_tasks": made_tasks(data.pruned.checkpoint_digest, shift=-0.25, limit=limit),
        }
    )
