"""The section of recovery training: its recipe and its curves."""

import json
from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.curve import Curve, TokensIndex
from pipeline.report.drawing.curves import curve_chart, fit_chart
from pipeline.report.figures.training import (
    TrainingFigures,
    TrainingSummary,
    remarks_on,
    training_figures,
    training_summary,
)
from pipeline.report.inputs import Inputs
from pipeline.report.quantity import human_count
from pipeline.report.section import Headline, ModelSection, Tile
from pipeline.report.summary import objective_of


class RecoveryHeadline(Headline):
    """The progress of training."""

    training: TrainingSummary | None = None


class RecoverySection(ModelSection):
    """Recovery training. `training`: its figures and thinned curve; `tokens`: index of the training data."""

    training: TrainingFigures | None = None
    tokens: TokensIndex | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the curve, and the index of the training tokens."""
        curve, recovery = inputs.find("curve", Curve), inputs.spec.recovery
        if curve is None or recovery is None:
            return {}
        return {
            "training": training_figures(curve, recovery),
            "tokens": inputs.find("tokens", TokensIndex),
        }

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The summary of training, which is None where nothing was trained."""
        return RecoveryHeadline(
            training=None if report.training is None else training_summary(report.training)
        )

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile with tokens, steps and speed."""
        if report.training is None:
            return
        done = training_summary(report.training)
        speed = "" if done.tokens_per_second is None else f", {human_count(done.tokens_per_second)} tokens/s"
        yield Tile(
            "Training",
            f"{human_count(done.tokens)} tokens",
            f"{done.steps} of {done.total_steps} steps{speed}",
            work=True,
        )

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """The deviations from the plan."""
        return remarks_on(report.training, of="training") if report.training is not None else ()

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The recipe, its objective in words, and charts of the recorded curves."""
        recovery, figures = report.spec.recovery, report.training
        if recovery is None:
            return None
        asked = {"recovery": recovery, "objective": objective_of(recovery)}
        if figures is None:
            return {**asked, "curves": None}
        return {
            **asked,
            "curves": curve_chart(
                figures,
                clipping=recovery.optimizer.gradient_clipping,
                distilled=recovery.objective.kind == "distillation",
            ),
            "fits": fit_chart(figures.curve.blocks),
            "deepspeed": json.dumps(figures.curve.deepspeed, indent=2),
        }
