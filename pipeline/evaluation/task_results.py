"""The results of lm-eval as typed data: figures of one checkpoint on one task, with their contract."""

from typing import Literal

from pipeline.canonical import Frozen

MAIN_METRICS = ("acc_norm", "acc", "exact_match")


class TaskMetric(Frozen):
    """One figure. `filter` names how answers were cut out of generated text; `none` where nothing was cut.

    `stderr` and `higher_is_better` are None where lm-eval does not report them.
    """

    metric: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool | None


class TaskContract(Frozen):
    """Everything that the figures of a task depend on beside the weights.

    `task_digest` covers prompts, metrics and data: the files that were included, the commit of the hub's
    dataset, and what lm-eval's own version brings. `dataset` is its name, with its configuration, and
    `documents_digest` a digest over all documents that were asked, in order; both are None for a group.
    `max_length`: tokens after which questions are cut at their left end. `num_fewshot` is None for a group
    whose members differ. `bos` is None where the tokenizer alone decides on BOS. `device`: `cpu`, or the name
    of the GPU. `engine`: the program that computed, with its version; None for transformers. Other fields
    that are None in figures of earlier versions were not recorded then.
    """

    harness_version: str
    task_version: str
    task_digest: str
    dataset_revision: str | None
    num_fewshot: int | None
    limit: int | None
    samples: int
    batch_size: int
    seed: int
    dtype: str
    max_length: int
    tokenizer_digest: str
    bos: Literal["every_window"] | None = None
    dataset: str | None = None
    split: str | None = None
    documents_digest: str | None = None
    device: str | None = None
    engine: str | None = None


class TaskResult(Frozen):
    """One task, or the mean over a group. `group`: the name in the spec that includes the task, if it is not
    the task's own; `aggregate`: True if it is a mean over tasks."""

    task: str
    group: str | None = None
    aggregate: bool = False
    contract: TaskContract
    metrics: tuple[TaskMetric, ...]

    @property
    def main(self) -> TaskMetric:
        """The figure that short tables show: acc_norm if the task has it, else acc, else exact_match, else
        the first that lm-eval lists; if there are several, the one without a filter. lm-eval offers acc_norm
        where answers differ in length, and papers quote it there."""
        for name in MAIN_METRICS:
            found = [metric for metric in self.metrics if metric.metric == name]
            if found:
                return next((metric for metric in found if metric.filter == "none"), found[0])
        return self.metrics[0]


class TaskEvaluation(Frozen):
    """Content of `tasks.json`: one checkpoint, one name of the spec. A group comes before its members."""

    checkpoint_digest: str
    task: str
    results: tuple[TaskResult, ...]
