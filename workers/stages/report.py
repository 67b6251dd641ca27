"""One page and one JSON with every figure."""

from typing import TypeVar

from pipeline.allocations.measures import Measurements
from pipeline.allocations.tournament import TournamentTable
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import TOKENS_JSON, BlockFit, BlockFits, Curve, TokensIndex
from pipeline.artifacts.mask_overlap import MaskAgreements
from pipeline.artifacts.refs import ExpertTable, FileRef, ManifestRef, ReportRef, SparsityTable
from pipeline.canonical import Frozen
from pipeline.checkpoint.keeps import EXPERTS_JSON, FITS_JSON
from pipeline.dag.stages import Report
from pipeline.report.data import ReportData, report_json
from pipeline.report.mask_figures import MaskLearning, mask_learning
from pipeline.report.page import render_html
from pipeline.report.summary import seeds_of
from pipeline.report.training_figures import TrainingFigures, training_figures
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.table import SizeTable, sizes_through
from pipeline.vocabulary.table import VocabularyTable
from workers.environment import environment
from workers.stages.base import Made, StageContext, Steps
from workers.stages.evaluate_task import read_evaluations

MODELS = ("dense", "pruned", "recovered")
Content = TypeVar("Content", bound=Frozen)


def run(stage: Report, context: StageContext) -> Steps:
    """Everything is read from artifacts; nothing is computed here but the layout."""
    content = context.content
    order = context.order
    manifest = context.inputs["manifest"]
    assert isinstance(manifest, ManifestRef)

    def read(name: str, path: str, cls: type[Content]) -> Content | None:
        return cls.model_validate_json(context.read(name, path)) if name in context.inputs else None

    dense = read("dense", "evaluation.json", EvaluationResult)
    assert dense is not None
    beside = read("agreements", "agreement.json", MaskAgreements)
    known = [which for which in MODELS if which in context.inputs]
    tasks = {f"{which}_tasks": read_evaluations(context, which) for which in known}
    data = ReportData(
        model_name=stage.model_name,
        job=order.job,
        job_name=order.request.name,
        spec=stage.spec,
        pins=order.pins,
        sizes=sizes_through([read(cut, "sizes.json", SizeTable) for cut in ("vocabulary", "cut")]),
        vocabulary=read("vocabulary", "table.json", VocabularyTable),
        plan=read("plan", "plan.json", SparsityPlan),
        sparsity=read("keep", "sparsity.json", SparsityTable),
        experts=_beside_keep(context, EXPERTS_JSON, ExpertTable),
        tournament=read("tournament", "tournament.json", TournamentTable),
        fits=_fits(context),
        masks=_masks(stage, context, read("mask_curve", "curve.json", Curve)),
        agreements=beside.agreements if beside is not None else (),
        measurements=read("measurements", "measurements.json", Measurements),
        dense=dense,
        pruned=read("pruned", "evaluation.json", EvaluationResult),
        recovered=read("recovered", "evaluation.json", EvaluationResult),
        **tasks,
        training=_figures(stage, read("curve", "curve.json", Curve)),
        tokens=read("tokens", "tokens.json", TokensIndex),
        certificate=read("certificate", "certificate.json", Certificate),
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
    files = {"report.html": render_html(data).encode(), "report.json": report_json(data)}
    refs = tuple(FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items())
    yield Made({"report": ReportRef(files=refs)})


def _fits(context: StageContext) -> tuple[BlockFit, ...]:
    found = _beside_keep(context, FITS_JSON, BlockFits)
    return () if found is None else found.blocks


def _masks(stage: Report, context: StageContext, curve: Curve | None) -> MaskLearning | None:
    method = stage.spec.learned_method
    if curve is None or method is None:
        return None
    tokens = context.read("mask_tokens", TOKENS_JSON)
    return mask_learning(
        curve,
        method.training,
        tokens=TokensIndex.model_validate_json(tokens),
    )


def _beside_keep(context: StageContext, path: str, cls: type[Content]) -> Content | None:
    keep = context.inputs.get("keep")
    if keep is None or path not in {file.path for file in keep.files}:
        return None
    return cls.model_validate_json(context.read("keep", path))


def _figures(stage: Report, curve: Curve | None) -> TrainingFigures | None:
    if curve is None or stage.spec.recovery is None:
        return None
    return training_figures(curve, stage.spec.recovery)
