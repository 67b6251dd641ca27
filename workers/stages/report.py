"""One page and one JSON with every figure."""

from pipeline.artifacts import FileRef, ManifestRef, Outliers, ReportRef, SparsityTable
from pipeline.evaluation import EvaluationResult
from pipeline.plan import SparsityPlan
from pipeline.report import ReportData, render_html, report_json, seeds_of
from pipeline.stages import Report
from workers.environment import environment
from workers.stages.base import Made, StageContext, Steps
from workers.stages.evaluate_task import read_evaluations


def run(stage: Report, context: StageContext) -> Steps:
    """Everything is read from artifacts; nothing is computed here but the layout."""
    content = context.content
    order = context.order
    manifest = context.inputs["manifest"]
    assert isinstance(manifest, ManifestRef)

    def read(name: str, path: str) -> bytes:
        return content.get_bytes(context.inputs[name].file(path))

    outliers = None
    if "outliers" in context.inputs:
        outliers = Outliers.model_validate_json(read("outliers", "outliers.json"))
    data = ReportData(
        model_name=stage.model_name,
        job=order.job,
        job_name=order.request.name,
        spec=stage.spec,
        pins=order.pins,
        plan=SparsityPlan.model_validate_json(read("plan", "plan.json")),
        sparsity=SparsityTable.model_validate_json(read("keep", "sparsity.json")),
        outliers=outliers,
        dense=EvaluationResult.model_validate_json(read("dense", "evaluation.json")),
        pruned=EvaluationResult.model_validate_json(read("pruned", "evaluation.json")),
        dense_tasks=read_evaluations(context, "dense"),
        pruned_tasks=read_evaluations(context, "pruned"),
        stages=context.earlier,
        environment=environment(threads=order.request.resources.cpus_per_worker),
        checkpoints={
            "dense": context.inputs["dense_checkpoint"].digest,
            "pruned": context.inputs["checkpoint"].digest,
        },
        manifest_prefix=manifest.prefix,
        manifest_digest=manifest.digest,
        seeds=seeds_of(stage.spec),
    )
    files = {"report.html": render_html(data).encode(), "report.json": report_json(data)}
    refs = tuple(FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items())
    yield Made({"report": ReportRef(files=refs)})
