"""Outlier ratios to a SparsityPlan."""

import json

from pipeline.architecture import row_for
from pipeline.artifacts import FileRef, Outliers, PlanRef
from pipeline.canonical import canonical_json
from pipeline.stages import Allocate
from workers.stages.base import Made, Note, StageContext, Steps


def run(stage: Allocate, context: StageContext) -> Steps:
    """Pure arithmetic over one number per block."""
    content = context.content
    config = json.loads(content.get_bytes(context.inputs["checkpoint"].file("config.json")))
    blocks = config[row_for(config["model_type"]).blocks_key]
    ratios: tuple[float, ...] = ()
    if "outliers" in context.inputs:
        data = content.get_bytes(context.inputs["outliers"].file("outliers.json"))
        ratios = Outliers.model_validate_json(data).ratios
    plan = stage.allocation.plan(stage.pattern, blocks=blocks, outlier_ratios=ratios)
    for note in plan.notes:
        yield Note(note, level="warning")
    blob = content.put_bytes(canonical_json(plan))
    yield Made({"plan": PlanRef(files=(FileRef(path="plan.json", blob=blob),))})
