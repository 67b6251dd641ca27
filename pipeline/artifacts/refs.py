"""What stages make: one reference class per kind, each a list of content-addressed files.

A class says which documents its artifacts hold, and names the files that are no documents. Nobody else spells
these names out.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, Field

from pipeline.allocations.measures import Measurements
from pipeline.allocations.tournament import Score, TournamentTable
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.curve import BlockFits, Curve, TokensIndex
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.mask_overlap import MaskAgreements
from pipeline.artifacts.sparsity import ExpertTable, SparsityTable
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.artifacts.vocabulary import CorpusSize, HeldOutDocuments, KeptTokens, VocabularyTable
from pipeline.canonical import Frozen, canonical_json, digest_of
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.spec.eval_tasks import CheckedTask
from pipeline.spec.evaluation import EvaluationResult
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import BlobRef, ContentStore
from pipeline.structure.cut import Cut
from pipeline.structure.table import SizeTable

MASKS_PATH = "masks/masks.safetensors"  # of a published directory: see checkpoint/masks.py
Document = TypeVar("Document", bound=BaseModel)


class FileRef(Frozen):
    """One file of an artifact: its path inside it and the blob that holds it."""

    path: str
    blob: BlobRef


class _Artifact(Frozen):
    """`content`: the documents that artifacts of a kind hold, by the paths of their files. An artifact may
    lack some of them."""

    content: ClassVar[Mapping[str, type[BaseModel]]] = {}
    files: tuple[FileRef, ...]

    @classmethod
    def path_of(cls, document: type[BaseModel]) -> str:
        """Path of the file that holds a document. Raises KeyError that names the documents there are."""
        for path, held in cls.content.items():
            if held is document:
                return path
        known = [held.__name__ for held in cls.content.values()]
        raise KeyError(f"{cls.__name__} holds no {document.__name__}; add it to its content beside {known}")

    @classmethod
    def put(cls, store: ContentStore, document: BaseModel) -> FileRef:
        """Store one of the documents."""
        return FileRef(path=cls.path_of(type(document)), blob=store.put_bytes(canonical_json(document)))

    @classmethod
    def made(cls, store: ContentStore, *documents: BaseModel, files: Iterable[FileRef] = ()) -> Self:
        """The artifact of some documents, which are stored here, and of stored files, ordered by path."""
        every = [*files, *(cls.put(store, document) for document in documents)]
        return cls(files=tuple(sorted(every, key=lambda file: file.path)))

    def load(self, store: ContentStore, document: type[Document]) -> Document:
        """One of the documents. Raises KeyError when this artifact lacks it."""
        return document.model_validate_json(store.get_bytes(self.file(self.path_of(document))))

    def find(self, store: ContentStore, document: type[Document]) -> Document | None:
        """One of the documents; None when this artifact lacks it."""
        there = self.path_of(document) in {file.path for file in self.files}
        return self.load(store, document) if there else None

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
    """A Hugging Face directory, and an index of every tensor with its digest (tensor_index.py)."""

    kind: Literal["checkpoint"] = "checkpoint"
    content: ClassVar = {"tensors.json": TensorIndex}

    @property
    def model_files(self) -> tuple[FileRef, ...]:
        """The files of the Hugging Face directory: all but the index."""
        return tuple(file for file in self.files if file.path not in self.content)


class SamplesRef(_Artifact):
    """Calibration samples: int64 `tokens` [samples, sequence_length]."""

    kind: Literal["samples"] = "samples"
    TOKENS: ClassVar = "samples.safetensors"


class StatisticsRef(_Artifact):
    """What a dense sweep measured of every linear's input: see checkpoint/statistics.py."""

    kind: Literal["statistics"] = "statistics"


class CutRef(_Artifact):
    """What stayed of a model that was cut."""

    kind: Literal["cut"] = "cut"
    content: ClassVar = {"cut.json": Cut, "sizes.json": SizeTable}


class CountsRef(_Artifact):
    """Token counts of a corpus, int64 `tokens` [vocabulary], its size, and the documents held out of it."""

    kind: Literal["token_counts"] = "token_counts"
    content: ClassVar = {"counts.json": CorpusSize, "held_out.json": HeldOutDocuments}
    TOKENS: ClassVar = "counts.safetensors"


class VocabularyRef(_Artifact):
    """What stayed of a vocabulary."""

    kind: Literal["vocabulary"] = "vocabulary"
    content: ClassVar = {
        "vocabulary.json": KeptTokens,
        "table.json": VocabularyTable,
        "sizes.json": SizeTable,
    }


class MeasurementsRef(_Artifact):
    """What an allocation had measured."""

    kind: Literal["measurements"] = "measurements"
    content: ClassVar = {"measurements.json": Measurements}


class ScoreRef(_Artifact):
    """A checkpoint's loss on held-out samples."""

    kind: Literal["score"] = "score"
    content: ClassVar = {"score.json": Score}


class TournamentRef(_Artifact):
    """The entrants of a tournament and its winner."""

    kind: Literal["tournament"] = "tournament"
    content: ClassVar = {"tournament.json": TournamentTable}


class PlanRef(_Artifact):
    """The sparsity of every block."""

    kind: Literal["plan"] = "plan"
    content: ClassVar = {"plan.json": SparsityPlan}


class KeepRef(_Artifact):
    """Bit-packed keep tensors, one safetensors file per block, and the zeros of every linear. There is an
    ExpertTable if a model with experts was calibrated, and BlockFits if its blocks were reconstructed."""

    kind: Literal["keep"] = "keep"
    content: ClassVar = {
        "sparsity.json": SparsityTable,
        "experts.json": ExpertTable,
        "reconstruction.json": BlockFits,
    }


class AgreementRef(_Artifact):
    """Masks beside others."""

    kind: Literal["agreement"] = "agreement"
    content: ClassVar = {"agreement.json": MaskAgreements}


class TokensRef(_Artifact):
    """Training sequences, shuffled: shards with int32 `tokens` [sequences, sequence_length], which the index
    lists, and the validation sequences likewise."""

    kind: Literal["tokens"] = "tokens"
    content: ClassVar = {"tokens.json": TokensIndex}
    VALIDATION: ClassVar = "validation.safetensors"


class CurveRef(_Artifact):
    """The course of a training."""

    kind: Literal["curve"] = "curve"
    content: ClassVar = {"curve.json": Curve}


class CertificateRef(_Artifact):
    """The checks that zeros are zero."""

    kind: Literal["certificate"] = "certificate"
    content: ClassVar = {"certificate.json": Certificate}


class AdapterRef(_Artifact):
    """LoRA matrices with their config, as peft writes them."""

    kind: Literal["adapter"] = "adapter"
    CONFIG: ClassVar = "adapter_config.json"
    MATRICES: ClassVar = "adapter_model.safetensors"


class EvaluationRef(_Artifact):
    """Perplexities of a checkpoint."""

    kind: Literal["evaluation"] = "evaluation"
    content: ClassVar = {"evaluation.json": EvaluationResult}


class TaskRef(_Artifact):
    """An lm-eval task, resolved, and in a folder the task files and data that it reads. What else the include
    directory holds is no part of it."""

    kind: Literal["task"] = "task"
    content: ClassVar = {"task.json": CheckedTask}
    FOLDER: ClassVar = "files/"


class TaskEvaluationRef(_Artifact):
    """Results of a task."""

    kind: Literal["task_evaluation"] = "task_evaluation"
    content: ClassVar = {"tasks.json": TaskEvaluation}


class HarnessRef(_Artifact):
    """The results as lm-eval itself writes them. They hold times and the machine's description, so equal
    evaluations have unequal ones; nothing is made from them."""

    kind: Literal["harness"] = "harness"
    RESULTS: ClassVar = "lm_eval.json"


class ManifestRef(_Artifact):
    """The published directory, below `prefix`; the manifest lists every file with size and SHA-256."""

    kind: Literal["manifest"] = "manifest"
    content: ClassVar = {"manifest.json": Manifest}
    prefix: str

    @property
    def key(self) -> str:
        """Where the manifest lies in the published directory. It is written last."""
        return f"{self.prefix}/{self.path_of(Manifest)}"


class ReportRef(_Artifact):
    """A page and the same as JSON. They hold timings, so equal jobs have unequal reports."""

    kind: Literal["report"] = "report"
    PAGE: ClassVar = "report.html"
    JSON: ClassVar = "report.json"


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
