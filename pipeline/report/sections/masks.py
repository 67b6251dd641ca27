"""The section of learned masks: their training, and the masks over its steps."""

import json
from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.curve import Curve, TokensIndex
from pipeline.report.drawing.curves import curve_chart, fit_chart
from pipeline.report.drawing.mask_curves import mask_block_chart, mask_chart
from pipeline.report.figures.masks import MaskLearning, MaskSummary, mask_learning, mask_summary
from pipeline.report.figures.training import remarks_on
from pipeline.report.inputs import Inputs
from pipeline.report.quantity import human_count, human_share
from pipeline.report.section import Headline, ModelSection, Tile
from pipeline.report.summary import objective_of


class MasksHeadline(Headline):
    """The progress of learning, and the share of masks that it changed."""

    masks: MaskSummary | None = None


class MasksSection(ModelSection):
    """The thinned curve of learning."""

    masks: MaskLearning | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the curve, and the index of the training tokens."""
        method = inputs.spec.learned_method
        curve = inputs.find("mask_curve", Curve)
        if curve is None or method is None:
            return {}
        tokens = inputs.find("mask_tokens", TokensIndex)
        return {"masks": mask_learning(curve, method.training, tokens=tokens)}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The summary of learning, which is None where no masks were learned."""
        return MasksHeadline(masks=None if report.masks is None else mask_summary(report.masks))

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile with tokens, steps and the share of groups that changed."""
        if report.masks is None:
            return
        done = mask_summary(report.masks)
        changed = f", {human_share(done.changed)} of the groups changed" if done.changed is not None else ""
        yield Tile(
            "Masks learned",
            f"{human_count(done.tokens)} tokens",
            f"{done.steps} of {done.total_steps} steps{changed}",
            work=True,
        )

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """The deviations from the plan."""
        return remarks_on(report.masks.training, of="mask learning") if report.masks is not None else ()

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The recipe and the charts. `curves`: the training; `settled`: the masks over the steps; `blocks`:
        the final masks of each block; `fits`: the distances of scope block."""
        method, learned = report.spec.learned_method, report.masks
        if learned is None or method is None:
            return None
        training = method.training
        return {
            "method": method,
            "training": training,
            "learned": learned,
            "objective": objective_of(training),
            "curves": curve_chart(
                learned.training,
                clipping=training.optimizer.gradient_clipping,
                distilled=training.needs_teacher,
            ),
            "settled": mask_chart(learned),
            "blocks": mask_block_chart(learned),
            "fits": fit_chart(learned.training.curve.blocks),
            "deepspeed": json.dumps(learned.training.curve.deepspeed, indent=2),
        }
