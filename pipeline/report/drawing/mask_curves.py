"""The curves of masks that are learned, as geometry that the page draws."""

from collections.abc import Sequence

from pipeline.artifacts.curve import MaskRecord
from pipeline.report.drawing.curves import marks_of
from pipeline.report.drawing.panels import TALL, CurveChart, Stack
from pipeline.report.figures.masks import MaskLearning
from pipeline.report.quantity import human_share

MIN_RECORDS = 3  # fewer records are not drawn as a curve


def mask_chart(learned: MaskLearning) -> CurveChart | None:
    """Draw the masks over the steps: means over all blocks as lines, and single blocks as heat maps. None
    where only beginning and end were recorded, as with scope block."""
    points, curve = learned.points, learned.training.curve
    if len(points) < MIN_RECORDS:
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
    """Draw the final state of each block's masks; None where nothing was recorded."""
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
    """Add heat maps with a row for each block and a column for each recorded step."""
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
