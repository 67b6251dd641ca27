"""What the page shows of masks that were learned: pictures, as geometry that it draws."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.artifacts.curve import MaskRecord
from pipeline.methods.learned import LearnedMethod
from pipeline.report.curves import curve_chart, fit_chart, marks_of
from pipeline.report.mask_figures import MaskLearning
from pipeline.report.panels import TALL, CurveChart, Stack
from pipeline.report.quantity import human_share
from pipeline.report.summary import objective_of
from pipeline.request.prune_spec import PruneSpec

FEWEST = 3  # records that make a curve


@dataclass(frozen=True)
class MaskPage:
    """`curves`: of the training; `settled`: of the masks over time; `blocks`: where each block's ended;
    `fits`: of scope block."""

    method: LearnedMethod
    objective: str
    curves: CurveChart | None
    settled: CurveChart | None
    blocks: CurveChart | None
    fits: CurveChart | None
    deepspeed: str


def mask_page(learned: MaskLearning | None, spec: PruneSpec) -> MaskPage | None:
    """None where no masks were learned."""
    method = spec.learned_method
    if learned is None or method is None:
        return None
    training = method.training
    return MaskPage(
        method=method,
        objective=objective_of(training),
        curves=curve_chart(
            learned.training,
            clipping=training.optimizer.gradient_clipping,
            distilled=training.needs_teacher,
        ),
        settled=mask_chart(learned),
        blocks=mask_block_chart(learned),
        fits=fit_chart(learned.training.curve.blocks),
        deepspeed=json.dumps(learned.training.curve.deepspeed, indent=2),
    )


def mask_chart(learned: MaskLearning) -> CurveChart | None:
    """How the masks settled over the steps: all blocks together as lines, block by block as heat maps; None
    where only beginning and end were recorded, as of scope block."""
    points, curve = learned.points, learned.training.curve
    if len(points) < FEWEST:
        return None
    stack = Stack(max(curve.total_steps, points[-1].step, 1))
    stack.add(
        "changed",
        "Share of groups whose likeliest mask is another one than at the start",
        {"plain": [(point.step, point.changed) for point in points]},
        height=TALL,
        floor=0.0,
    )
    stack.add(
        "certainty",
        "Largest probability of a group's masks, mean",
        {"plain": [(point.step, point.certainty) for point in points]},
    )
    stack.add(
        "entropy",
        "Entropy of a group's masks in nats, mean",
        {"plain": [(point.step, point.entropy) for point in points]},
        floor=0.0,
    )
    stack.add(
        "temperature",
        "Temperature of the draws",
        {"plain": [(point.step, point.temperature) for point in points]},
        floor=0.0,
    )
    stack.add(
        "scale", "Scale of the logits", {"plain": [(point.step, point.scale) for point in points]}, floor=0.0
    )
    _add_maps(stack, curve.masks)
    first, last = points[0], points[-1] if learned.result is None else learned.result
    return stack.chart(
        x_title="step",
        x_ticks=stack.whole_ticks(wanted=4),
        marks=marks_of(curve, stack),
        description=(
            f"{human_share(last.changed)} of the groups changed their mask; certainty from "
            f"{first.certainty:.3f} to {last.certainty:.3f}, entropy from {first.entropy:.3f} to "
            f"{last.entropy:.3f}"
        ),
    )


def mask_block_chart(learned: MaskLearning) -> CurveChart | None:
    """Where each block's masks ended; None where nothing was recorded."""
    if learned.outcome is None or not learned.outcome.blocks:
        return None
    blocks = learned.outcome.blocks
    stack = Stack(max(len(blocks) - 1, 1))
    stack.add(
        "changed",
        "Share of groups that end with another mask than they began with",
        {"after": [(i, block.changed) for i, block in enumerate(blocks)]},
        floor=0.0,
        dots={"after": lambda i, share: f"block {i:g}: {share:.4f} changed"},
    )
    stack.add(
        "certainty",
        "Largest probability of a group's masks at the end, mean",
        {"after": [(i, block.certainty) for i, block in enumerate(blocks)]},
        dots={"after": lambda i, share: f"block {i:g}: certainty {share:.4f}"},
    )
    shares = [block.changed for block in blocks]
    return stack.chart(
        x_title="block",
        x_ticks=stack.whole_ticks(wanted=10),
        description=f"{len(blocks)} blocks; changed from {min(shares):.4f} to {max(shares):.4f}",
    )


def _add_maps(stack: Stack, records: Sequence[MaskRecord]) -> None:
    """Blocks over time."""
    steps = [record.step for record in records]
    for name, title, words in (
        ("changed", "Changed groups", human_share),
        ("certainty", "Largest probability", "{:.2f}".format),
    ):
        rows = list(
            zip(*([getattr(block, name) for block in record.blocks] for record in records), strict=True)
        )
        low, high = min(map(min, rows)), max(map(max, rows))
        stack.add_map(
            f"{name}-blocks",
            f"{title}, a row for each block: {words(low)} light, {words(high)} dark",
            steps,
            rows,
        )
