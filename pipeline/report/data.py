"""The report of a job: all figures as one model, and as JSON. The page is drawn from it (report_page.py)."""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from pipeline.allocations.measures import Measurements
from pipeline.allocations.tournament import TournamentTable
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import BlockFit, TokensIndex
from pipeline.artifacts.environment import Environment
from pipeline.artifacts.mask_overlap import MaskAgreement
from pipeline.artifacts.sparsity import ExpertTable, SparsityTable
from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison, TaskComparison, compare, compare_tasks
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.job.ledger import NodeResult
from pipeline.report.mask_figures import MaskLearning
from pipeline.report.mask_overlap import equal_groups
from pipeline.report.quantity import human_bytes
from pipeline.report.summary import recipe_of
from pipeline.report.training_figures import TrainingFigures
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.table import SizeTable

SPARSITY_TOLERANCE = 1e-3
NAMED = 5  # linears of one note


class ReportData(Frozen):
    """Everything that the page shows. What a job does not have is None: sizes come from structured pruning,
    vocabulary from a cut of the vocabulary, plan and measurements from pruning of weights, experts from that
    of a model that has some, fits from its reconstruction, masks where they were learned, agreements where
    there are others to compare with, training and tokens from recovery, sparsity and certificate wherever
    there are zeros.

    `stages`: the nodes that were done before the report, in plan order. `checkpoints`: digests of the
    artifacts by name (`dense`, `pruned`, `recovered`). `seeds`: every source of randomness by name.
    `warnings`: what a reader must know beside the plan's own notes. `declared_memory_bytes`: of each worker.
    """

    model_name: str
    job: str | None = None
    job_name: str | None = None
    spec: PruneSpec
    pins: Pins
    sizes: SizeTable | None = None
    vocabulary: VocabularyTable | None = None
    plan: SparsityPlan | None = None
    sparsity: SparsityTable | None = None
    experts: ExpertTable | None = None
    measurements: Measurements | None = None
    tournament: TournamentTable | None = None
    fits: tuple[BlockFit, ...] = ()
    masks: MaskLearning | None = None
    agreements: tuple[MaskAgreement, ...] = ()
    dense: EvaluationResult
    pruned: EvaluationResult | None = None
    recovered: EvaluationResult | None = None
    dense_tasks: tuple[TaskEvaluation, ...] = ()
    pruned_tasks: tuple[TaskEvaluation, ...] = ()
    recovered_tasks: tuple[TaskEvaluation, ...] = ()
    training: TrainingFigures | None = None
    tokens: TokensIndex | None = None
    certificate: Certificate | None = None
    stages: tuple[NodeResult, ...]
    environment: Environment
    declared_memory_bytes: int | None = None
    checkpoints: dict[str, str]
    manifest_prefix: str
    manifest_digest: str | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Perplexities side by side. Raises UnequalContracts."""
        return compare(self.dense, self.pruned, self.recovered, own_tokenizers=self.spec.cuts_vocabulary)

    @property
    def task_comparisons(self) -> tuple[TaskComparison, ...]:
        """lm-eval's figures side by side. Raises UnequalContracts."""
        asked = self.spec.evaluation.tasks
        return compare_tasks(
            self.dense_tasks,
            self.pruned_tasks if self.pruned is not None else None,
            self.recovered_tasks if self.recovered is not None else None,
            suite=asked.suite if asked else None,
            own_tokenizers=self.spec.cuts_vocabulary,
        )

    @property
    def asked(self) -> float | None:
        """Sparsity that the spec asks for at the end."""
        recovery = self.spec.recovery
        if recovery is not None and recovery.keep.kind == "gradual":
            return recovery.keep.sparsity
        return self.plan.asked if self.plan is not None else None

    @property
    def keeps_plan(self) -> bool:
        """Whether the blocks are as sparse as the plan says: gradual pruning goes on after it."""
        recovery = self.spec.recovery
        return self.plan is not None and (recovery is None or recovery.keep.kind != "gradual")

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything worth a warning, the achieved sparsity's deviation included."""
        planned = self.plan.notes if self.plan is not None else ()
        return (
            *self.warnings,
            *planned,
            *((self.experts.note,) if self.experts is not None and self.experts.note else ()),
            *_deviation(self),
            *_solved(self.sparsity),
            *_remarks(self.masks.training if self.masks is not None else None, of="mask learning"),
            *_remarks(self.training, of="training"),
            *_beyond_declared(self),
        )


class TrainingSummary(Frozen):
    """`perplexity_before`, `perplexity_after`: on held-out text, of what training began and ended with."""

    steps: int
    total_steps: int
    tokens: int
    tokens_per_second: float | None
    perplexity_before: float | None
    perplexity_after: float | None


class MaskSummary(TrainingSummary):
    """As of other training. `changed`: share of groups that ended with another mask than they began with;
    `certainty`: mean probability of the mask that a group ended with."""

    changed: float | None
    certainty: float | None


class Summary(Frozen):
    """The figures that tables of jobs show. `seconds`: of the stages that ran, cached ones left out.
    `held`: weights that are zero at all `checks` of the certificate. `agreement`: share of groups with the
    same mask as each of the others has, by name."""

    model: str
    recipe: str
    asked_sparsity: float | None = None
    achieved_sparsity: float | None = None
    perplexity: tuple[Comparison, ...]
    tasks: tuple[TaskComparison, ...] = ()
    masks: MaskSummary | None = None
    agreement: dict[str, float] = Field(default_factory=dict)
    training: TrainingSummary | None = None
    held: int | None = None
    checks: int | None = None
    seconds: float
    peak_memory_bytes: int | None
    stages: int
    cached_stages: int
    notes: tuple[str, ...]


class ReportDocument(Frozen):
    """Content of `report.json`."""

    object: Literal["report"] = "report"
    summary: Summary
    data: ReportData


def report_json(data: ReportData) -> bytes:
    """`report.json`: a ReportDocument, indented. Raises UnequalContracts."""
    document = ReportDocument(summary=summarise(data), data=data)
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_report(content: bytes | str) -> ReportDocument:
    """The document back from its JSON."""
    return ReportDocument.model_validate_json(content)


def summarise(data: ReportData) -> Summary:
    """The headline figures. Raises UnequalContracts."""
    peaks = [s.measured.peak_memory_bytes for s in data.stages if s.measured.peak_memory_bytes is not None]
    certificate = data.certificate
    return Summary(
        model=data.model_name,
        recipe=recipe_of(data.spec),
        asked_sparsity=data.asked,
        achieved_sparsity=data.sparsity.sparsity if data.sparsity is not None else None,
        perplexity=data.comparisons,
        tasks=data.task_comparisons,
        masks=_learned(data.masks),
        agreement=equal_groups(data.agreements, data.sparsity),
        training=_trained(data.training),
        held=sum(one.held for one in certificate.tensors) if certificate is not None else None,
        checks=len(certificate.checks) if certificate is not None else None,
        seconds=sum(stage.measured.seconds for stage in data.stages if not stage.cached),
        peak_memory_bytes=max(peaks, default=None),
        stages=len(data.stages),
        cached_stages=sum(stage.cached for stage in data.stages),
        notes=data.notes,
    )


def limits_of(tasks: Sequence[TaskComparison]) -> str:
    """`limit 25`, or `limit 25 to 100`; empty when all questions were asked."""
    limits = sorted({task.limit for task in tasks if task.limit is not None})
    if not limits:
        return ""
    return f"limit {limits[0]}" if len(limits) == 1 else f"limit {limits[0]} to {limits[-1]}"


def _learned(masks: MaskLearning | None) -> MaskSummary | None:
    if masks is None:
        return None
    trained, result = _trained(masks.training), masks.result
    assert trained is not None, "masks were learned in training"
    return MaskSummary(
        **dict(trained),
        changed=result.changed if result is not None else None,
        certainty=result.certainty if result is not None else None,
    )


def _trained(figures: TrainingFigures | None) -> TrainingSummary | None:
    if figures is None:
        return None
    return TrainingSummary(
        steps=figures.curve.result_step,
        total_steps=figures.curve.total_steps,
        tokens=figures.tokens,
        tokens_per_second=figures.tokens_per_second,
        perplexity_before=figures.perplexity_before,
        perplexity_after=figures.perplexity_after,
    )


def _deviation(data: ReportData) -> Iterator[str]:
    if data.sparsity is None or data.asked is None:
        return
    difference = data.sparsity.sparsity - data.asked
    if abs(difference) > SPARSITY_TOLERANCE:
        yield (
            f"achieved sparsity {data.sparsity.sparsity:.4f} is {abs(difference):.4f} "
            f"{'above' if difference > 0 else 'below'} the asked {data.asked:g}"
        )


def _beyond_declared(data: ReportData) -> Iterator[str]:
    """Stages of the gang, which alone have a memory declared."""
    for stage in data.stages:
        peak = stage.measured.peak_memory_bytes
        if data.declared_memory_bytes is None or peak is None or stage.cached:
            continue
        if "idle_memory_bytes" in stage.measured.details and peak > data.declared_memory_bytes:
            yield (
                f"{stage.node} took {human_bytes(peak)} on a worker, and resources.memory_per_worker "
                f"declares {human_bytes(data.declared_memory_bytes)}: raise it, or use more workers"
            )


def _solved(table: SparsityTable | None) -> Iterator[str]:
    """Where the method had to deviate, linears with the same deviation together."""
    places: dict[str, list[str]] = {}
    for linear in table.linears if table is not None else ():
        if linear.note is not None:
            places.setdefault(linear.note, []).append(f"block {linear.block} {linear.linear}")
    for note, found in places.items():
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        yield f"{note} ({', '.join(found[:NAMED])}{more})"


def _remarks(figures: TrainingFigures | None, *, of: str) -> Iterator[str]:
    """`of`: which training."""
    if figures is None:
        return
    curve = figures.curve
    if curve.stopped == "early":
        made = "weights" if of == "training" else "masks"
        yield (
            f"{of} stopped early: the {made} are those after step {curve.result_step} of {curve.total_steps}"
        )
    if curve.starts > 1:
        yield f"{of} was started {curve.starts} times, and went on from its last checkpoint"
    if figures.skipped_steps:
        yield f"{figures.skipped_steps} steps of {of} were skipped: their gradients were beyond float16"
