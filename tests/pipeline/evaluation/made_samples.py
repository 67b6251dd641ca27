"""Figures of tasks with the values of each document behind them."""

from collections.abc import Mapping, Sequence

from pipeline.canonical import sha256_hex
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged, MetricValues, TaskSamples, TaskValues
from tests.pipeline.evaluation.made_tasks import evaluated, made_task

Answers = Sequence[float]


def made_leaf(task: str, answers: Answers, *, seen: str = "") -> TaskValues:
    """The accuracy on each document. `seen`: other words give other documents."""
    documents = tuple(sha256_hex(f"{task}{seen}{i}".encode())[:16] for i in range(len(answers)))
    values = MetricValues(metric="acc", filter="none", values=tuple(answers))
    return TaskValues(task=task, documents=documents, metrics=(values,))


def judged_task(checkpoint: str, task: str, answers: Answers, *, seen: str = "") -> Judged:
    """One question set."""
    result = made_task(task, acc=sum(answers) / len(answers))
    samples = TaskSamples(
        checkpoint_digest=checkpoint, task=task, leaves=(made_leaf(task, answers, seen=seen),)
    )
    return Judged(evaluated(checkpoint, result), samples)


def judged_group(
    checkpoint: str, group: str, members: Mapping[str, Answers], *, by_size: bool = True
) -> Judged:
    """A group with a mean, over all documents or over the members' means."""
    means = {name: sum(answers) / len(answers) for name, answers in members.items()}
    every = [answer for answers in members.values() for answer in answers]
    mean = sum(every) / len(every) if by_size else sum(means.values()) / len(means)
    results = (
        made_task(group, aggregate=True, acc=mean),
        *(made_task(name, group=group, acc=value) for name, value in means.items()),
    )
    leaves = tuple(made_leaf(name, answers) for name, answers in members.items())
    samples = TaskSamples(
        checkpoint_digest=checkpoint, task=group, leaves=leaves, groups={group: tuple(members)}
    )
    return Judged(TaskEvaluation(checkpoint_digest=checkpoint, task=group, results=results), samples)
