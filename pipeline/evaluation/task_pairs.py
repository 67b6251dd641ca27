"""The differences of two models on lm-eval's tasks, over the documents that both answered."""

from collections.abc import Sequence

from pipeline.canonical import Frozen
from pipeline.evaluation.difference import PairedDifference
from pipeline.evaluation.task_samples import Judged, Stratum, paired_strata
from pipeline.spec.eval_tasks import SUITES, Suite

AVERAGE = "average"  # the metric of a suite's mean


class TaskPair(Frozen):
    """The difference in one metric of one task. `asked`: the name in the spec that includes the task."""

    asked: str
    task: str
    metric: str
    filter: str
    difference: PairedDifference

    @property
    def figure(self) -> tuple[str, str, str, str]:
        """The figure that it is about: the name in the spec, task, metric and filter."""
        return (self.asked, self.task, self.metric, self.filter)


def paired_tasks(
    before: Sequence[Judged], after: Sequence[Judged], *, suite: Suite | None = None
) -> tuple[TaskPair, ...]:
    """The differences `after` minus `before` of all figures that are means over documents, in order, and that
    of the suite's average. Both models were evaluated on the same names, in the same order."""
    from pipeline.evaluation.paired import paired_mean  # numpy is only needed to compute

    found: dict[tuple[str, str, str, str], tuple[Stratum, ...]] = {}
    main: dict[str, tuple[Stratum, ...]] = {}
    for one, other in zip(before, after, strict=True):
        asked = one.evaluation.task
        for result, metric, strata in paired_strata(one, other):
            found[asked, result.task, metric.metric, metric.filter] = strata
            if metric == result.main and result.task == asked:
                main[asked] = strata
    if suite is not None and SUITES[suite].keys() <= main.keys():
        share = 1 / len(SUITES[suite])
        found[suite, suite, AVERAGE, "none"] = tuple(
            stratum.weighing(share) for name in SUITES[suite] for stratum in main[name]
        )
    pairs = []
    for (asked, task, metric_name, filter_name), strata in found.items():
        difference = paired_mean(strata)
        if difference is not None:
            pairs.append(
                TaskPair(
                    asked=asked, task=task, metric=metric_name, filter=filter_name, difference=difference
                )
            )
    return tuple(pairs)
