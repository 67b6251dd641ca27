"""Every kind of work: its version, what it takes, and the key under which its result is found again.

`version` is raised when numbers change; the golden tests notice when someone forgets.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from pipeline.allocations import Candidate, Contest
from pipeline.allocations.measures import Measure
from pipeline.artifacts.refs import ArtifactRef
from pipeline.canonical import Frozen, digest_of
from pipeline.methods import OneShot
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import PinnedFile
from pipeline.spec.eval_tasks import LM_EVAL_VERSION, EvalTask
from pipeline.spec.evaluation import Evaluation
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.model import Dtype
from pipeline.spec.patterns import Pattern
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.recovery import Recovery
from pipeline.spec.structure import Structure
from pipeline.spec.texts import Calibration, TextSource
from pipeline.spec.training_recipe import TrainingRecipe, TrainingText
from pipeline.tensor.needs import Statistic


class _Stage(Frozen):
    """`outputs`: names of the artifacts that the stage makes. `unit`: what its progress counts.
    `reusable`: whether a stored result serves other jobs."""

    version: ClassVar[int] = 1
    reusable: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]]
    unit: ClassVar[str] = "step"


class ImportModel(_Stage):
    """Copies a checkpoint into the content store, verified against its pin."""

    kind: Literal["import_model"] = "import_model"
    outputs: ClassVar = ("checkpoint",)
    unit: ClassVar = "MB"
    files: tuple[PinnedFile, ...]


class Calibrate(_Stage):
    """Documents → calibration samples. Reads `checkpoint` for its tokenizer only."""

    kind: Literal["calibrate"] = "calibrate"
    outputs: ClassVar = ("samples",)
    files: tuple[PinnedFile, ...]
    calibration: Calibration


class MeasureStatistics(_Stage):
    """Dense sweep over all blocks: statistics of every linear's input. `needs`: sorted."""

    kind: Literal["measure_statistics"] = "measure_statistics"
    outputs: ClassVar = ("statistics",)
    unit: ClassVar = "block"
    needs: tuple[Statistic, ...]
    compute_dtype: Dtype


class CountTokens(_Stage):
    """Documents → how often each token of `checkpoint` occurs in them. `files`: of each of `texts`, and then
    of `held_out`, whose documents, if it is given, are kept to prove by."""

    kind: Literal["count_tokens"] = "count_tokens"
    outputs: ClassVar = ("counts",)
    unit: ClassVar = "MB"
    files: tuple[tuple[PinnedFile, ...], ...]
    texts: tuple[TextSource, ...]
    held_out: TextSource | None


class CutVocabulary(_Stage):
    """`counts` → a checkpoint with the tokens that are used most, and the proof of its tokenizer."""

    kind: Literal["cut_vocabulary"] = "cut_vocabulary"
    outputs: ClassVar = ("checkpoint", "vocabulary")
    unit: ClassVar = "block"
    size: int
    multiple_of: int


class Slice(_Stage):
    """A checkpoint cut to another size, and what stayed of it. Takes `statistics` of a dense sweep where
    activations decide."""

    kind: Literal["slice"] = "slice"
    outputs: ClassVar = ("checkpoint", "cut")
    unit: ClassVar = "block"
    structure: Structure


class MeasureBlocks(_Stage):
    """Weights, and statistics if the measure takes them → a number per block for the allocation."""

    kind: Literal["measure_blocks"] = "measure_blocks"
    outputs: ClassVar = ("measurements",)
    unit: ClassVar = "block"
    measure: Measure


class Allocate(_Stage):
    """Measurements → SparsityPlan."""

    kind: Literal["allocate"] = "allocate"
    version: ClassVar = 2
    outputs: ClassVar = ("plan",)
    allocation: Candidate
    pattern: Pattern


class HoldOut(_Stage):
    """Documents → samples beside those of the calibration, to judge by. Reads what Calibrate does."""

    kind: Literal["hold_out"] = "hold_out"
    outputs: ClassVar = ("samples",)
    files: tuple[PinnedFile, ...]
    calibration: Calibration
    samples: int


class Judge(_Stage):
    """A checkpoint's loss on samples."""

    kind: Literal["judge"] = "judge"
    outputs: ClassVar = ("score",)
    unit: ClassVar = "block"
    compute_dtype: Dtype


class ChoosePlan(_Stage):
    """`plan:i` and `score:i` of every entrant → the winner's plan, and the table."""

    kind: Literal["choose_plan"] = "choose_plan"
    outputs: ClassVar = ("plan", "tournament")
    tournament: Contest


class PruneBlocks(_Stage):
    """Masks block by block; each finished block is stored, so that a later attempt goes on after it. Takes
    `samples`, if blocks are to be run, and with `propagation: dense` the `statistics` of a dense sweep."""

    kind: Literal["prune"] = "prune"
    version: ClassVar = 2
    outputs: ClassVar = ("checkpoint", "keep")
    unit: ClassVar = "block"
    method: OneShot
    propagation: Propagation
    reconstruction: BlockReconstruction | None
    compute_dtype: Dtype


class ImportKeep(_Stage):
    """Copies stored keep tensors into the content store, held against the shapes of `checkpoint` and, where
    they are to be begun with, against the patterns of `plan`."""

    kind: Literal["import_keep"] = "import_keep"
    outputs: ClassVar = ("keep",)
    unit: ClassVar = "block"
    files: tuple[PinnedFile, ...]


class CompareMasks(_Stage):
    """`keep` of `checkpoint` beside `other:<name>` for each of `others`, by the patterns of `plan`."""

    kind: Literal["compare_masks"] = "compare_masks"
    outputs: ClassVar = ("agreements",)
    unit: ClassVar = "mask file"
    others: tuple[str, ...]


class LearnMasks(_Stage):
    """Training of N:M masks on the frozen weights of `checkpoint`; it is saved as Recover's is. Takes
    `tokens`, the `plan`, and the keep tensors that it begins with as `prior`, if there are any."""

    kind: Literal["learn_masks"] = "learn_masks"
    outputs: ClassVar = ("checkpoint", "keep", "curve", "certificate")
    unit: ClassVar = "step"
    training: MaskTraining
    prior_strength: float
    certify_every_steps: ClassVar[int] = 1  # nothing is held until the end, so there is nothing to look at

    @property
    def recipe(self) -> TrainingRecipe:
        """What it has in common with other training."""
        return self.training


class PrepareText(_Stage):
    """Documents → shuffled training sequences. Reads `checkpoint` for its tokenizer only. `sequences`: how
    many are needed beside those held out."""

    kind: Literal["prepare_text"] = "prepare_text"
    outputs: ClassVar = ("tokens",)
    unit: ClassVar = "sequence"
    files: tuple[PinnedFile, ...]
    text: TrainingText
    sequences: int


class Recover(_Stage):
    """Training after pruning; its checkpoints are stored, so that a later attempt goes on after the last.

    `sparse`: whether there are zeros to be held.
    """

    kind: Literal["recover"] = "recover"
    unit: ClassVar = "step"
    recovery: Recovery
    sparse: bool

    @property
    def certify_every_steps(self) -> int:
        """How often zeros are looked at."""
        return self.recovery.certify_every_steps

    @property
    def recipe(self) -> TrainingRecipe:
        """What it has in common with other training."""
        return self.recovery

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """What this kind of training makes."""
        held = ("keep", "certificate") if self.sparse else ()
        adapter = ("adapter",) if self.recovery.trains.kind == "lora" else ()
        return ("checkpoint", "curve", *held, *adapter)


class Evaluate(_Stage):
    """Perplexities of one checkpoint. `texts`: the pinned files of each text, parallel to the evaluation."""

    kind: Literal["evaluate"] = "evaluate"
    version: ClassVar = 2
    outputs: ClassVar = ("evaluation",)
    unit: ClassVar = "block"
    texts: tuple[tuple[PinnedFile, ...], ...]
    evaluation: Evaluation
    compute_dtype: Dtype


class CheckTasks(_Stage):
    """Names of tasks → what they stand for, one artifact for each name. An unknown one, or data that cannot
    be had, fail the job before anything is pruned. Datasets of the hub are fixed to the commit found then."""

    kind: Literal["check_tasks"] = "check_tasks"
    unit: ClassVar = "task"
    tasks: tuple[EvalTask, ...]
    include: tuple[PinnedFile, ...]
    harness_version: str = LM_EVAL_VERSION

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names."""
        return tuple(task.name for task in self.tasks)


class EvaluateTask(_Stage):
    """One checkpoint put to one task (or group, or tag) by lm-eval."""

    kind: Literal["evaluate_task"] = "evaluate_task"
    outputs: ClassVar = ("tasks", "harness")
    unit: ClassVar = "request"
    task: EvalTask
    batch_size: int
    seed: int
    compute_dtype: Dtype
    harness_version: str = LM_EVAL_VERSION


class Publish(_Stage):
    """An ordinary Hugging Face directory with model card, side file and manifest; where there are zeros, with
    their masks, and their certificate, for which the published files are read back. Takes `unpruned`, the
    checkpoint whose weights the masks were chosen for, where these are the masks."""

    kind: Literal["publish"] = "publish"
    version: ClassVar = 4
    unit: ClassVar = "file"
    model_name: str
    spec: PruneSpec

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """A certificate only where there is something to certify."""
        return ("manifest", "certificate") if self.spec.makes_zeros else ("manifest",)


class Report(_Stage):
    """One page and one JSON with every figure. They tell what this job did, so each job makes its own."""

    kind: Literal["report"] = "report"
    outputs: ClassVar = ("report",)
    reusable: ClassVar = False
    model_name: str
    spec: PruneSpec


class ReportSweep(_Stage):
    """The members of a sweep side by side. Takes `dense` and its tasks, and of every member, numbered from 1,
    `plan@1`, `keep@1`, `pruned@1` and `tasks:pruned:<task>@1`."""

    kind: Literal["report_sweep"] = "report_sweep"
    outputs: ClassVar = ("report",)
    reusable: ClassVar = False
    model_name: str
    spec: PruneSpec


# Their fields name sources, beside which the pinned files stand.
SOURCELESS = ("count_tokens", "calibrate", "hold_out", "prepare_text", "recover", "learn_masks", "evaluate")

Stage = Annotated[
    ImportModel
    | Calibrate
    | CountTokens
    | CutVocabulary
    | MeasureStatistics
    | Slice
    | MeasureBlocks
    | Allocate
    | HoldOut
    | Judge
    | ChoosePlan
    | PruneBlocks
    | ImportKeep
    | CompareMasks
    | LearnMasks
    | PrepareText
    | Recover
    | Evaluate
    | CheckTasks
    | EvaluateTask
    | Publish
    | Report
    | ReportSweep,
    Field(discriminator="kind"),
]


def stage_key(stage: Stage, inputs: Mapping[str, ArtifactRef]) -> str:
    """SHA-256 over name, version, all fields (defaults too) and the digests of the input artifacts.

    Where texts lie is left out: the same content elsewhere is the same work. (What is published names its
    sources, so there they count.)
    """
    fields: JsonValue = stage.model_dump(mode="json")
    if stage.kind in SOURCELESS:
        fields = _without_sources(fields)
    return digest_of(
        {
            "stage": stage.kind,
            "version": stage.version,
            "fields": fields,
            "inputs": {name: artifact.digest for name, artifact in sorted(inputs.items())},
        }
    )


def _without_sources(value: JsonValue) -> JsonValue:
    if isinstance(value, dict):
        return {name: _without_sources(inner) for name, inner in value.items() if name != "source"}
    if isinstance(value, list):
        return [_without_sources(inner) for inner in value]
    return value
