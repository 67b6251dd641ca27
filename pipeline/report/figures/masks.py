"""The figures of learned masks in a report: their training, and the masks over its steps."""

import statistics

from pipeline.artifacts.curve import Curve, MaskRecord, TokensIndex
from pipeline.canonical import Frozen
from pipeline.report.figures.training import (
    TrainingFigures,
    TrainingSummary,
    training_figures,
    training_summary,
)
from pipeline.spec.mask_training import MaskTraining

MAX_RECORDS = 40
MAX_POINTS = 600


class MaskPoint(Frozen):
    """A MaskRecord summed up over its blocks: `entropy`, `certainty` and `changed` are means over them."""

    step: int
    temperature: float
    scale: float
    entropy: float
    certainty: float
    changed: float


class MaskLearning(Frozen):
    """The figures of mask learning. `training`: its curve has about MAX_RECORDS of the masks' records;
    `points`: about MAX_POINTS of them, as means over blocks; both have the first, the last and the result's.
    `tokens`: the training data."""

    training: TrainingFigures
    points: tuple[MaskPoint, ...] = ()
    tokens: TokensIndex | None = None

    @property
    def outcome(self) -> MaskRecord | None:
        """The last record up to the step whose masks are the result."""
        masks, last = self.training.curve.masks, self.training.curve.result_step
        return next((record for record in reversed(masks) if record.step <= last), None)

    @property
    def result(self) -> MaskPoint | None:
        """`outcome` as means over blocks: the share of groups that end with another mask than they began
        with, and the mean probability of the mask that a group ends with."""
        return None if self.outcome is None else _point(self.outcome)


def mask_learning(
    curve: Curve,
    training: MaskTraining,
    *,
    tokens: TokensIndex | None = None,
) -> MaskLearning:
    """Compute the figures from a whole curve and its recipe."""
    thinned = curve.model_copy(update={"masks": _thinned(curve, MAX_RECORDS)})
    return MaskLearning(
        training=training_figures(thinned, training),
        points=tuple(map(_point, _thinned(curve, MAX_POINTS))),
        tokens=tokens,
    )


class MaskSummary(TrainingSummary):
    """The summary of mask learning. `changed`: share of groups that ended with another mask than they began
    with; `certainty`: mean probability of the mask that a group ended with."""

    changed: float | None
    certainty: float | None


def mask_summary(learned: MaskLearning) -> MaskSummary:
    """The figures that tables of jobs show."""
    result = learned.result
    return MaskSummary(
        **dict(training_summary(learned.training)),
        changed=result.changed if result is not None else None,
        certainty=result.certainty if result is not None else None,
    )


def _thinned(curve: Curve, most: int) -> tuple[MaskRecord, ...]:
    """Choose records evenly, with the first, the last and that of the result among them."""
    records = curve.masks
    if len(records) <= most:
        return records
    chosen = {i * (len(records) - 1) // (most - 1) for i in range(most)}
    chosen |= {i for i, record in enumerate(records) if record.step == curve.result_step}
    return tuple(records[i] for i in sorted(chosen))


def _point(record: MaskRecord) -> MaskPoint:
    return MaskPoint(
        step=record.step,
        temperature=record.temperature,
        scale=record.scale,
        entropy=statistics.fmean(block.entropy for block in record.blocks),
        certainty=statistics.fmean(block.certainty for block in record.blocks),
        changed=statistics.fmean(block.changed for block in record.blocks),
    )
