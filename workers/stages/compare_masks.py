"""The stage that compares the masks of a job with others, linear by linear."""

from pipeline.artifacts.mask_overlap import MaskOverlaps
from pipeline.artifacts.refs import KeepRef, MaskOverlapRef
from pipeline.dag.stages.pruning import CompareMasks
from pipeline.masks.overlap import agreement
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import Made, Progress, StageContext, Steps


def run(stage: CompareMasks, context: StageContext) -> Steps:
    """Compare one linear at a time, so that memory holds two masks only."""
    plan = context.load("plan", SparsityPlan)
    ours, found = context.inputs["keep"], []
    assert isinstance(ours, KeepRef)
    for i, other in enumerate(stage.others):
        theirs = context.inputs[f"other:{other}"]
        assert isinstance(theirs, KeepRef)
        found.append(
            agreement(context.content, context.checkpoint(), ours, theirs, other=other, patterns=plan.blocks)
        )
        yield Progress(i + 1, len(stage.others))
    agreements = MaskOverlaps(agreements=tuple(found))
    yield Made({"agreements": MaskOverlapRef.made(context.content, agreements)})
