"""Measurements to a SparsityPlan."""

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.refs import FileRef, PlanRef
from pipeline.canonical import canonical_json
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.dag.stages import Allocate
from workers.stages.base import Made, Note, StageContext, Steps


def run(stage: Allocate, context: StageContext) -> Steps:
    """Pure arithmetic over one number per block or linear."""
    weights = prunable_weights(context.content, context.checkpoint())
    measured: tuple[float, ...] = ()
    if "measurements" in context.inputs:
        found = context.read("measurements", "measurements.json")
        measured = Measurements.model_validate_json(found).values(weights)
    plan = stage.allocation.plan(stage.pattern, weights, measured=measured)
    for note in plan.notes:
        yield Note(note, level="warning")
    blob = context.content.put_bytes(canonical_json(plan))
    yield Made({"plan": PlanRef(files=(FileRef(path="plan.json", blob=blob),))})
