"""What stages make: one reference class per kind, each a list of content-addressed files."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.canonical import Frozen, digest_of
from pipeline.storage.content import BlobRef

MASKS_PATH = "masks/masks.safetensors"  # of a published directory: see checkpoint/masks.py


class FileRef(Frozen):
    """One file of an artifact: its path inside it and the blob that holds it."""

    path: str
    blob: BlobRef


class _Artifact(Frozen):
    files: tuple[FileRef, ...]

    @property
    def digest(self) -> str:
        """Content hash of kind, paths and blobs: equal artifacts have equal digests, wherever made."""
        return digest_of(self)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.blob.size for file in self.files)

    def file(self, path: str) -> BlobRef:
        """The blob of one file. Raises KeyError that names what is there."""
        for file in self.files:
            if file.path == path:
                return file.blob
        raise KeyError(f"{path!r} is not among {[file.path for file in self.files]}")


class CheckpointRef(_Artifact):
    """A Hugging Face directory. `tensors.json` indexes every tensor with its digest (checkpoint/index.py)."""

    kind: Literal["checkpoint"] = "checkpoint"


class SamplesRef(_Artifact):
    """Calibration samples: `samples.safetensors` with int64 `tokens` [samples, sequence_length]."""

    kind: Literal["samples"] = "samples"


class StatisticsRef(_Artifact):
    """What a dense sweep measured of every linear's input: see checkpoint/statistics.py."""

    kind: Literal["statistics"] = "statistics"


class CutRef(_Artifact):
    """What stayed of a model that was cut: `cut.json` (a Cut) and `sizes.json` (a SizeTable)."""

    kind: Literal["cut"] = "cut"


class CountsRef(_Artifact):
    """Token counts of a corpus: `counts.safetensors` with int64 `tokens` [vocabulary], `counts.json`
    (documents and bytes), and `held_out.json`, the documents that were not counted."""

    kind: Literal["token_counts"] = "token_counts"


class VocabularyRef(_Artifact):
    """What stayed of a vocabulary: `vocabulary.json` (KeptTokens), `table.json` (a VocabularyTable) and
    `sizes.json` (a SizeTable)."""

    kind: Literal["vocabulary"] = "vocabulary"


class MeasurementsRef(_Artifact):
    """Measurements: `measurements.json`."""

    kind: Literal["measurements"] = "measurements"


class ScoreRef(_Artifact):
    """A Score on held-out samples: `score.json`."""

    kind: Literal["score"] = "score"


class TournamentRef(_Artifact):
    """A TournamentTable: `tournament.json`."""

    kind: Literal["tournament"] = "tournament"


class PlanRef(_Artifact):
    """A SparsityPlan: `plan.json`."""

    kind: Literal["plan"] = "plan"


class KeepRef(_Artifact):
    """Bit-packed keep tensors, one safetensors file per block, and `sparsity.json` with zeros per linear; of
    a model with experts that was calibrated also `experts.json` (an ExpertTable), of one whose blocks were
    reconstructed `reconstruction.json` (BlockFits)."""

    kind: Literal["keep"] = "keep"


class AgreementRef(_Artifact):
    """Masks beside others: `agreement.json` (MaskAgreements)."""

    kind: Literal["agreement"] = "agreement"


class TokensRef(_Artifact):
    """Training sequences, shuffled: `tokens.json` (a TokensIndex), `train-00000.safetensors` and so on with
    int32 `tokens` [sequences, sequence_length]; `validation.safetensors` likewise."""

    kind: Literal["tokens"] = "tokens"


class CurveRef(_Artifact):
    """A Curve: `curve.json`."""

    kind: Literal["curve"] = "curve"


class CertificateRef(_Artifact):
    """A Certificate: `certificate.json`."""

    kind: Literal["certificate"] = "certificate"


class AdapterRef(_Artifact):
    """LoRA matrices as peft writes them: `adapter_config.json`, `adapter_model.safetensors`."""

    kind: Literal["adapter"] = "adapter"


class EvaluationRef(_Artifact):
    """An EvaluationResult: `evaluation.json`."""

    kind: Literal["evaluation"] = "evaluation"


class TaskRef(_Artifact):
    """An lm-eval task, resolved: `task.json` (a CheckedTask), and below `files/` the task files and data that
    it reads. What else the include directory holds is no part of it."""

    kind: Literal["task"] = "task"


class TaskEvaluationRef(_Artifact):
    """A TaskEvaluation: `tasks.json`."""

    kind: Literal["task_evaluation"] = "task_evaluation"


class HarnessRef(_Artifact):
    """`lm_eval.json`, as lm-eval itself writes it. It holds times and the machine's description, so equal
    evaluations have unequal ones; nothing is made from it."""

    kind: Literal["harness"] = "harness"


class ManifestRef(_Artifact):
    """The published directory, below `prefix`; `manifest.json` lists every file with size and SHA-256."""

    kind: Literal["manifest"] = "manifest"
    prefix: str


class ReportRef(_Artifact):
    """`report.html` and `report.json`. They hold timings, so equal jobs have unequal reports."""

    kind: Literal["report"] = "report"


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
    | AgreementRef
    | TokensRef
    | CurveRef
    | CertificateRef
    | AdapterRef
    | EvaluationRef
    | TaskRef
    | TaskEvaluationRef
    | HarnessRef
    | ManifestRef
    | ReportRef,
    Field(discriminator="kind"),
]


class ManifestEntry(Frozen):
    """One published file."""

    path: str
    size: int
    sha256: str


class Manifest(Frozen):
    """Everything that belongs to a published directory. Written last: without it nothing was published."""

    files: tuple[ManifestEntry, ...]


class LinearSparsity(Frozen):
    """Zeros achieved in one linear.

    `pruned`: how many the method chose; `zeros` also counts weights that were zero before. `note`: where the
    method had to deviate from what was asked.
    """

    block: int
    linear: str
    pruned: int
    zeros: int
    weights: int
    note: str | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros."""
        return self.zeros / self.weights


class SparsityTable(Frozen):
    """Content of `sparsity.json`."""

    linears: tuple[LinearSparsity, ...]

    @property
    def sparsity(self) -> float:
        """Over all prunable weights."""
        return sum(linear.zeros for linear in self.linears) / sum(linear.weights for linear in self.linears)


class BlockExperts(Frozen):
    """Calibration tokens that were routed to each expert of a block, in the experts' order."""

    block: int
    tokens: tuple[int, ...]


class ExpertTable(Frozen):
    """Content of `experts.json`: blocks with experts. Experts with fewer tokens than `minimum_tokens` were
    pruned without statistics (tensor/routing.py)."""

    minimum_tokens: int
    blocks: tuple[BlockExperts, ...]

    @property
    def note(self) -> str | None:
        """What a reader must know of experts that were pruned without statistics."""
        every = [tokens for block in self.blocks for tokens in block.tokens]
        few = sum(tokens < self.minimum_tokens for tokens in every)
        if not few:
            return None
        return (
            f"{few} of {len(every)} experts saw fewer than {self.minimum_tokens} calibration tokens and were "
            f"pruned by their weights alone; use more samples"
        )
