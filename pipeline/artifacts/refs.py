"""The kinds of artifacts: one reference class per kind, each a list of content-addressed files.

A class says which documents its artifacts hold, and names the files that are no documents. No other module
spells these names out.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.allocations.measures import Measurements
from pipeline.allocations.tournament import Score, TournamentTable
from pipeline.artifacts.artifact import Artifact, FileRef
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import BlockFits, Curve, TokensIndex
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.mask_overlap import MaskOverlaps
from pipeline.artifacts.quantized import QuantizedRef
from pipeline.artifacts.remarks import ImportRemarks
from pipeline.artifacts.serving import Serving, TargetCheck
from pipeline.artifacts.sparsity import ExpertTable, SparsityTable
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.artifacts.verification import Verification
from pipeline.artifacts.vocabulary import CorpusSize, HeldOutDocuments, KeptTokens, VocabularyTable
from pipeline.evaluation.behaviour import BehaviourResult
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import TaskSamples
from pipeline.spec.eval_tasks import CheckedTask
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.structure.cut import Cut
from pipeline.structure.expert_table import ExpertGainTable
from pipeline.structure.table import SizeTable

MASKS_PATH = "masks/masks.safetensors"  # in a published directory: see masks/published.py


class CheckpointRef(Artifact):
    """A Hugging Face directory, and an index of every tensor with its digest (tensor_index.py)."""

    kind: Literal["checkpoint"] = "checkpoint"
    content: ClassVar = {"tensors.json": TensorIndex, "remarks.json": ImportRemarks}

    @property
    def model_files(self) -> tuple[FileRef, ...]:
        """The files of the Hugging Face directory: all but our own."""
        return tuple(file for file in self.files if file.path not in self.content)


class SamplesRef(Artifact):
    """Calibration samples: int64 `tokens` [samples, sequence_length]."""

    kind: Literal["samples"] = "samples"
    TOKENS: ClassVar = "samples.safetensors"


class StatisticsRef(Artifact):
    """The statistics of every linear's input that a dense sweep measured: see checkpoint/statistics.py."""

    kind: Literal["statistics"] = "statistics"


class CutRef(Artifact):
    """The parts of a model that stayed when it was cut. There is an ExpertGainTable if experts were chosen by
    what they give."""

    kind: Literal["cut"] = "cut"
    content: ClassVar = {"cut.json": Cut, "sizes.json": SizeTable, "expert_gains.json": ExpertGainTable}


class CountsRef(Artifact):
    """Token counts of a corpus, int64 `tokens` [vocabulary], its size, and the documents held out of it."""

    kind: Literal["token_counts"] = "token_counts"
    content: ClassVar = {"counts.json": CorpusSize, "held_out.json": HeldOutDocuments}
    TOKENS: ClassVar = "counts.safetensors"


class VocabularyRef(Artifact):
    """The tokens that stayed when a vocabulary was cut."""

    kind: Literal["vocabulary"] = "vocabulary"
    content: ClassVar = {
        "vocabulary.json": KeptTokens,
        "table.json": VocabularyTable,
        "sizes.json": SizeTable,
    }


class MeasurementsRef(Artifact):
    """The numbers that were measured for an allocation."""

    kind: Literal["measurements"] = "measurements"
    content: ClassVar = {"measurements.json": Measurements}


class ScoreRef(Artifact):
    """A checkpoint's loss on held-out samples."""

    kind: Literal["score"] = "score"
    content: ClassVar = {"score.json": Score}


class TournamentRef(Artifact):
    """The entrants of a tournament and its winner."""

    kind: Literal["tournament"] = "tournament"
    content: ClassVar = {"tournament.json": TournamentTable}


class PlanRef(Artifact):
    """The sparsity of every block."""

    kind: Literal["plan"] = "plan"
    content: ClassVar = {"plan.json": SparsityPlan}


class KeepRef(Artifact):
    """Bit-packed keep tensors, one safetensors file per block, and the zeros of every linear. There is an
    ExpertTable if a model with experts was calibrated, and BlockFits if its blocks were reconstructed."""

    kind: Literal["keep"] = "keep"
    content: ClassVar = {
        "sparsity.json": SparsityTable,
        "experts.json": ExpertTable,
        "reconstruction.json": BlockFits,
    }


class MaskOverlapRef(Artifact):
    """The overlap of a job's masks with others."""

    kind: Literal["agreement"] = "agreement"
    content: ClassVar = {"agreement.json": MaskOverlaps}


class TokensRef(Artifact):
    """Shuffled training sequences: shards with int32 `tokens` [sequences, sequence_length], which the index
    lists, and the validation sequences in the same form."""

    kind: Literal["tokens"] = "tokens"
    content: ClassVar = {"tokens.json": TokensIndex}
    VALIDATION: ClassVar = "validation.safetensors"


class CurveRef(Artifact):
    """The curve of a training. It has speeds."""

    kind: Literal["curve"] = "curve"
    repeatable: ClassVar = False
    content: ClassVar = {"curve.json": Curve}


class CertificateRef(Artifact):
    """The checks that zeros are zero."""

    kind: Literal["certificate"] = "certificate"
    content: ClassVar = {"certificate.json": Certificate}


class AdapterRef(Artifact):
    """LoRA matrices with their config, as peft writes them."""

    kind: Literal["adapter"] = "adapter"
    CONFIG: ClassVar = "adapter_config.json"
    MATRICES: ClassVar = "adapter_model.safetensors"


class EvaluationRef(Artifact):
    """Perplexities of a checkpoint."""

    kind: Literal["evaluation"] = "evaluation"
    content: ClassVar = {"evaluation.json": EvaluationResult}


class BehaviourRef(Artifact):
    """The continuations of prompts by a checkpoint."""

    kind: Literal["behaviour"] = "behaviour"
    content: ClassVar = {"behaviour.json": BehaviourResult}


class TaskRef(Artifact):
    """A resolved lm-eval task, and in a folder the task files and data that it reads. Other files of the
    include directory are no part of it."""

    kind: Literal["task"] = "task"
    content: ClassVar = {"task.json": CheckedTask}
    FOLDER: ClassVar = "files/"


class TaskEvaluationRef(Artifact):
    """The results of a task, and the values of each document behind them."""

    kind: Literal["task_evaluation"] = "task_evaluation"
    content: ClassVar = {"tasks.json": TaskEvaluation, "samples.json": TaskSamples}


class HarnessRef(Artifact):
    """The results as lm-eval itself writes them. They hold times and the machine's description, so they
    differ between equal evaluations; no stage takes them."""

    kind: Literal["harness"] = "harness"
    repeatable: ClassVar = False
    RESULTS: ClassVar = "lm_eval.json"


class ExportRef(Artifact):
    """A checkpoint as a target reads it."""

    kind: Literal["export"] = "export"


class TargetCheckRef(Artifact):
    """What a target made of a published model."""

    kind: Literal["target_check"] = "target_check"
    content: ClassVar = {"target.json": TargetCheck}


class ServingRef(Artifact):
    """How fast a target is with the dense and with the final model."""

    kind: Literal["serving"] = "serving"
    content: ClassVar = {"serving.json": Serving}


class PublishedRef(Artifact):
    """The files of a directory below `prefix`. Nobody sees it as published before `verify` has opened it and
    written its manifest."""

    kind: Literal["published"] = "published"
    prefix: str


class VerificationRef(Artifact):
    """What was checked of a published directory."""

    kind: Literal["verification"] = "verification"
    content: ClassVar = {"verification.json": Verification}


class ManifestRef(Artifact):
    """The published directory, below `prefix`; the manifest lists every file with size and SHA-256."""

    kind: Literal["manifest"] = "manifest"
    content: ClassVar = {"manifest.json": Manifest}
    prefix: str

    @property
    def key(self) -> str:
        """The storage key of the manifest, which is written last."""
        return f"{self.prefix}/{self.path_of(Manifest)}"


class ReportRef(Artifact):
    """A page, the same report as JSON, and the provenance of what was published. They hold timings, so equal
    jobs have unequal reports. Reports of sweeps, and those of older versions, have no provenance."""

    kind: Literal["report"] = "report"
    repeatable: ClassVar = False
    PAGE: ClassVar = "report.html"
    JSON: ClassVar = "report.json"
    PROVENANCE: ClassVar = "provenance.json"


ArtifactRef = Annotated[
    CheckpointRef
    | SamplesRef
    | StatisticsRef
    | CutRef
    | CountsRef
    | VocabularyRef
    | MeasurementsRef
    | ScoreRef
    | TournamentRef
    | PlanRef
    | KeepRef
    | MaskOverlapRef
    | TokensRef
    | CurveRef
    | CertificateRef
    | AdapterRef
    | EvaluationRef
    | BehaviourRef
    | TaskRef
    | TaskEvaluationRef
    | HarnessRef
    | ExportRef
    | QuantizedRef
    | TargetCheckRef
    | ServingRef
    | PublishedRef
    | VerificationRef
    | ManifestRef
    | ReportRef,
    Field(discriminator="kind"),
]
