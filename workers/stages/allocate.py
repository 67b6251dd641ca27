"""The stage that makes a SparsityPlan from measurements."""

# The driver imports these two with the stage, before it has threads: see Site.prepare.
import accelerate  # noqa: F401
import transformers.modeling_utils  # noqa: F401

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.refs import PlanRef
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.dag.stages.pruning import Allocate
from workers.context import Made, Note, StageContext, Steps


def run(stage: Allocate, context: StageContext) -> Steps:
    """Compute the plan from one number per block or linear. No weights are read."""
    weights = prunable_weights(context.content, context.checkpoint())
    measured: tuple[float, ...] = ()
    if "measurements" in context.inputs:
        measured = context.load("measurements", Measurements).values(weights)
    plan = stage.allocation.plan(stage.pattern, weights, measured=measured)
    for note in plan.notes:
        yield Note(note, level="warning")
    yield Made({"plan": PlanRef.made(context.content, plan)})
