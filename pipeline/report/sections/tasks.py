"""The section that compares lm-eval's figures of all models."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.evaluation.contracts import other_devices
from pipeline.evaluation.task_comparison import TaskComparison, compare_tasks, limits_of
from pipeline.evaluation.task_pairs import AVERAGE, TaskPair
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.report.inputs import MODELS, Inputs, task_evaluations, task_pairs
from pipeline.report.quantity import human_metric
from pipeline.report.section import Headline, ModelSection, Tile


class TasksHeadline(Headline):
    """A comparison for each metric of each task."""

    tasks: tuple[TaskComparison, ...] = ()


class TasksSection(ModelSection):
    """The figures of each model, in the order of the spec. `task_pairs`: the differences between the dense
    model and the final one over the same documents; empty in reports of earlier versions."""

    dense_tasks: tuple[TaskEvaluation, ...] = ()
    pruned_tasks: tuple[TaskEvaluation, ...] = ()
    recovered_tasks: tuple[TaskEvaluation, ...] = ()
    task_pairs: tuple[TaskPair, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read an artifact for each model and task, and pair the dense model with the final one."""
        found: dict[str, object] = {f"{which}_tasks": task_evaluations(inputs, which) for which in MODELS}
        final = "recovered" if inputs.spec.recovery is not None else "pruned"
        return {**found, "task_pairs": task_pairs(inputs, final)}

    @property
    def task_comparisons(self) -> tuple[TaskComparison, ...]:
        """lm-eval's figures of all models. Raises UnequalContracts."""
        asked = self.spec.evaluation.tasks
        return compare_tasks(
            self.dense_tasks,
            self.pruned_tasks if self.pruned is not None else None,
            self.recovered_tasks if self.recovered is not None else None,
            pairs=self.task_pairs,
            suite=asked.suite if asked else None,
            own_tokenizers=self.spec.cuts_vocabulary,
        )

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The comparisons. Raises UnequalContracts."""
        return TasksHeadline(tasks=report.task_comparisons)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for the suite's average, else for the first task."""
        main = [task for task in report.task_comparisons if task.main]
        for task in [task for task in main if task.metric == AVERAGE] or main[:1]:
            values = [value for value in (task.dense, task.pruned, task.recovered) if value is not None]
            limit = f", limit {task.limit}" if task.limit else ""
            yield Tile(
                f"{task.task}, {task.metric}",
                " → ".join(map(human_metric, values)),
                " → ".join(report.models) + limit,
                wide=len(report.models) > 2,
            )

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """A warning for the first task whose models were evaluated on different devices."""
        by_model = (report.dense_tasks, report.pruned_tasks, report.recovered_tasks)
        named = [(which, tasks) for which, tasks in zip(MODELS, by_model, strict=True) if tasks]
        for i, task in enumerate(report.dense_tasks):
            contracts = {which: tasks[i].results[0].contract for which, tasks in named}
            found = list(other_devices(contracts, f"figures of {task.task} were"))
            if found:
                return found
        return []

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The limits on questions, and the version of lm-eval; None where no task was evaluated."""
        if not report.task_comparisons:
            return None
        return {
            "limits": limits_of(report.task_comparisons),
            "harness_version": report.dense_tasks[0].results[0].contract.harness_version,
        }
