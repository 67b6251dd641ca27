"""One page and one JSON with every figure."""

from pipeline.allocations.measures import Measurements
from pipeline.allocations.tournament import TournamentTable
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import BlockFit, BlockFits, Curve, TokensIndex
from pipeline.artifacts.mask_overlap import MaskAgreements
from pipeline.artifacts.refs import ManifestRef, ReportRef
from pipeline.artifacts.sparsity import ExpertTable, SparsityTable
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.dag.stages.results import Report
from pipeline.methods.maskllm import MaskLLM
from pipeline.report.data import ReportData, report_json
from pipeline.report.mask_figures import MaskLearning, mask_learning
from pipeline.report.page import render_html
from pipeline.report.summary import seeds_of
from pipeline.report.training_figures import TrainingFigures, training_figures
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.table import SizeTable, sizes_through
from workers.environment import environment
from workers.stages.base import Made, StageContext, Steps
from workers.stages.evaluate_task import read_evaluations

MODELS = ("dense", "pruned", "recovered")


def run(stage: Report, context: StageContext) -> Steps:
    """Everything is read from artifacts; nothing is computed here but the layout."""
    content = context.content
    order = context.order
    manifest = context.inputs["manifest"]
    assert isinstance(manifest, ManifestRef)

    beside = context.find("agreements", MaskAgreements)
    known = [which for which in MODELS if which in context.inputs]
    tasks = {f"{which}_tasks": read_evaluations(context, which) for which in known}
    data = ReportData(
        model_name=stage.model_name,
        job=order.job,
        job_name=order.request.name,
        spec=stage.spec,
        pins=order.pins,
        sizes=sizes_through([context.find(cut, SizeTable) for cut in ("vocabulary", "cut")]),
        vocabulary=context.find("vocabulary", VocabularyTable),
        plan=context.find("plan", SparsityPlan),
        sparsity=context.find("keep", SparsityTable),
        experts=context.find("keep", ExpertTable),
        tournament=context.find("tournament", TournamentTable),
        fits=_fits(context),
        masks=_masks(stage, context, context.find("mask_curve", Curve)),
        agreements=beside.agreements if beside is not None else (),
        measurements=context.find("measurements", Measurements),
        dense=context.load("dense", EvaluationResult),
        pruned=context.find("pruned", EvaluationResult),
        recovered=context.find("recovered", EvaluationResult),
        **tasks,
        training=_figures(stage, context.find("curve", Curve)),
        tokens=context.find("tokens", TokensIndex),
        certificate=context.find("certificate", Certificate),
        stages=context.earlier,
        environment=environment(
            threads=order.request.resources.cpus_per_worker,
            training=stage.spec.recovery is not None or stage.spec.learns_masks,
        ),
        declared_memory_bytes=order.request.resources.memory_bytes,
        checkpoints={which: context.inputs[f"{which}_checkpoint"].digest for which in known},
        manifest_prefix=manifest.prefix,
        manifest_digest=manifest.digest,
        seeds=seeds_of(stage.spec),
    )
    files = {ReportRef.PAGE: render_html(data).encode(), ReportRef.JSON: report_json(data)}
    refs = tuple(FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items())
    yield Made({"report": ReportRef(files=refs)})


def _fits(context: StageContext) -> tuple[BlockFit, ...]:
    found = context.find("keep", BlockFits)
    return () if found is None else found.blocks


def _masks(stage: Report, context: StageContext, curve: Curve | None) -> MaskLearning | None:
    method = stage.spec.prune.method if stage.spec.prune is not None else None
    if curve is None or not isinstance(method, MaskLLM):
        return None
    return mask_learning(curve, method.training, tokens=context.load("mask_tokens", TokensIndex))


def _figures(stage: Report, curve: Curve | None) -> TrainingFigures | None:
    if curve is None or stage.spec.recovery is None:
        return None
    return training_figures(curve, stage.spec.recovery)
