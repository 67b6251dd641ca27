"""The masks of a job beside others, linear by linear."""

from pipeline.artifacts import AgreementRef, FileRef, KeepRef
from pipeline.canonical import canonical_json
from pipeline.checkpoint.agreement import agreement
from pipeline.mask_agreement import MaskAgreements
from pipeline.plan import SparsityPlan
from pipeline.stages import CompareMasks
from workers.stages.base import Made, Progress, StageContext, Steps


def run(stage: CompareMasks, context: StageContext) -> Steps:
    """Memory holds two masks."""
    plan = SparsityPlan.model_validate_json(context.read("plan", "plan.json"))
    ours, found = context.inputs["keep"], []
    assert isinstance(ours, KeepRef)
    for i, other in enumerate(stage.others):
        theirs = context.inputs[f"other:{other}"]
        assert isinstance(theirs, KeepRef)
        found.append(
            agreement(context.content, context.checkpoint(), ours, theirs, other=other, patterns=plan.blocks)
        )
        yield Progress(i + 1, len(stage.others))
    blob = context.content.put_bytes(canonical_json(MaskAgreements(agreements=tuple(found))))
    yield Made({"agreements": AgreementRef(files=(FileRef(path="agreement.json", blob=blob),))})
