"""A stage runner is a generator that yields Progress and ends with Made.

Light stages run whole in one process. Stages that walk the blocks run in the driver, take a turn on its crew,
and let the crew do the work. The site (workers/site.py) decides if that crew is on a Ray cluster or in this
process.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.artifacts.artifact import Document
from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.artifacts.refs import ArtifactRef, CheckpointRef
from pipeline.blocks.steps import Note, Progress
from pipeline.job.ledger import NodeResult, WorkOrder
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.spec.source_fields import source_fields
from pipeline.storage.content import ContentStore
from pipeline.storage.progress import StageProgress
from workers.settings import WorkerSettings

__all__ = [
    "Made",
    "Note",
    "Progress",
    "StageContext",
    "Step",
    "Steps",
    "Trained",
    "Validated",
    "Waited",
]


@dataclass(frozen=True)
class Trained:
    """An optimizer step to report."""

    total_steps: int
    record: StepRecord


@dataclass(frozen=True)
class Validated:
    """A validation to report."""

    validation: Validation


@dataclass(frozen=True)
class Waited:
    """Time spent waiting for the cluster; it does not count as the stage's own."""

    seconds: float


@dataclass(frozen=True)
class Made:
    """The artifacts that a stage made, and its cost beyond wall time."""

    artifacts: Mapping[str, ArtifactRef]
    peak_memory_bytes: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)
    device: str | None = None


Step = Progress | Note | Trained | Validated | Waited | Made
Steps = Iterator[Step]


@dataclass(frozen=True)
class StageContext:
    """The inputs and the surroundings of a runner. It crosses process borders, so `content` is opened anew on
    each side."""

    node: str
    key: str
    order: WorkOrder
    inputs: Mapping[str, ArtifactRef]
    earlier: tuple[NodeResult, ...]
    settings: WorkerSettings
    tries: int = 1

    @property
    def title(self) -> str:
        """The name that the Ray dashboard shows."""
        return f"{self.order.job}-{self.order.attempt} {self.node}"

    @property
    def content(self) -> ContentStore:
        """The job's storage."""
        return self.settings.content()

    @property
    def progress(self) -> StageProgress:
        """The finished parts of this stage."""
        return StageProgress(self.content, self.key, self.settings.snapshot_seconds)

    def read(self, name: str, path: str) -> bytes:
        """Read one file of an input."""
        return self.content.get_bytes(self.inputs[name].file(path))

    def load(self, name: str, document: type[Document]) -> Document:
        """Read a document of an input."""
        return self.inputs[name].load(self.content, document)

    def find(self, name: str, document: type[Document]) -> Document | None:
        """Read a document of an input; None where there is no such input, or it lacks the document."""
        artifact = self.inputs.get(name)
        return None if artifact is None else artifact.find(self.content, document)

    def source(self, files: tuple[PinnedFile, ...]) -> tuple[str, Pin]:
        """The path of the first field whose source holds these files, and its pin."""
        fields = (field.path for field in source_fields(self.order.request.spec, "spec"))
        pins = self.order.pins
        return next((field, pins.of(field)) for field in fields if pins.of(field).files == files)

    def checkpoint(self, name: str = "checkpoint") -> CheckpointRef:
        """An input that is a checkpoint."""
        artifact = self.inputs[name]
        assert isinstance(artifact, CheckpointRef)
        return artifact
