"""The members of a sweep as one page and one JSON."""

from dataclasses import replace

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef, ReportRef
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.dag.stages.results import ReportSweep
from pipeline.evaluation.comparison import compare, compare_tasks
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.job.ledger import NodeResult
from pipeline.report.page import render_sweep
from pipeline.report.summary import recipe_of, titles_of
from pipeline.report.sweep import SweepData, SweepDocument, SweepMember, best_of, sweep_json
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.environment import environment
from workers.stages.base import Made, StageContext, Steps
from workers.stages.evaluate_task import read_evaluations


def run(stage: ReportSweep, context: StageContext) -> Steps:
    """Everything is read from artifacts; nothing is computed here but the layout."""
    order, content = context.order, context.content
    specs = zip(stage.spec.members, titles_of(stage.spec), strict=True)
    members = [_member(i, spec, title, context) for i, (spec, title) in enumerate(specs, start=1)]
    best = best_of([(member.sparsity, member.perplexity[0].final) for member in members])
    data = SweepData(
        model_name=stage.model_name,
        job=order.job,
        job_name=order.request.name,
        spec=stage.spec,
        pins=order.pins,
        members=tuple(
            member.model_copy(update={"best": one}) for member, one in zip(members, best, strict=True)
        ),
        stages=context.earlier,
        environment=environment(threads=order.request.resources.cpus_per_worker, training=False),
        declared_memory_bytes=order.request.resources.memory_bytes,
    )
    document = SweepDocument(recipe=recipe_of(stage.spec), data=data)
    files = {ReportRef.PAGE: render_sweep(document).encode(), ReportRef.JSON: sweep_json(document)}
    refs = tuple(FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items())
    yield Made({"report": ReportRef(files=refs)})


def _member(number: int, spec: PruneSpec, title: str, context: StageContext) -> SweepMember:
    def evaluation(name: str) -> EvaluationResult:
        return context.load(name, EvaluationResult)

    assert spec.prune is not None, "members prune"
    plan = context.load(f"plan@{number}", SparsityPlan)
    table = context.load(f"keep@{number}", SparsityTable)
    pruned = _pruned_by(context, context.inputs[f"keep@{number}"].digest)
    checkpoint = pruned.artifacts["checkpoint"]
    own_tokenizers = spec.cuts_vocabulary
    assert isinstance(checkpoint, CheckpointRef), "prune makes one"
    return SweepMember(
        number=number,
        title=title,
        prune=spec.prune,
        sparsity=table.sparsity,
        perplexity=compare(
            evaluation("dense"), evaluation(f"pruned@{number}"), own_tokenizers=own_tokenizers
        ),
        tasks=compare_tasks(*_tasks(context, number), own_tokenizers=own_tokenizers)
        if spec.evaluation.tasks is not None
        else (),
        seconds=pruned.measured.seconds,
        checkpoint=checkpoint.digest,
        notes=plan.notes,
    )


def _tasks(
    context: StageContext, number: int
) -> tuple[tuple[TaskEvaluation, ...], tuple[TaskEvaluation, ...]]:
    """Of the dense checkpoint and of a member's."""
    ending = f"@{number}"
    own = {name.removesuffix(ending): ref for name, ref in context.inputs.items() if name.endswith(ending)}
    return read_evaluations(context, "dense"), read_evaluations(replace(context, inputs=own), "pruned")


def _pruned_by(context: StageContext, keep: str) -> NodeResult:
    """The node that made a member's masks; of equal ones the first."""
    return next(
        one
        for one in context.earlier
        if one.node.startswith("prune@") and one.artifacts["keep"].digest == keep
    )
