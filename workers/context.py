"""A stage runner is a generator that yields Progress and ends with Made.

Light stages run whole in one process. Stages that walk the blocks run in the driver, take a turn on its crew,
and let the crew do the work. Whether that crew is on a Ray cluster or in this process is the site's business
(workers/site.py).
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
    """An optimizer step worth telling."""

    total_steps: int
    record: StepRecord


@dataclass(frozen=True)
class Validated:
    """A validation."""

    validation: Validation


@dataclass(frozen=True)
class Waited:
    """Time spent waiting for the cluster; it is not the stage's own."""

    seconds: float


@dataclass(frozen=True)
class Made:
    """What a stage made, and what it cost beyond its wall time."""

    artifacts: Mapping[str, ArtifactRef]
    peak_memory_bytes: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)


Step = Progress | Note | Trained | Validated | Waited | Made
Steps = Iterator[Step]


@dataclass(frozen=True)
class StageContext:
    """Where a runner finds things. Crosses process borders; `content` is opened anew on each side."""

    node: str
    key: str
    order: WorkOrder
    inputs: Mapping[str, ArtifactRef]
    earlier: tuple[NodeResult, ...]
    settings: WorkerSettings
    tries: int = 1

    @property
    def title(self) -> str:
        """What the Ray dashboard shows."""
        return f"{self.order.job}-{self.order.attempt} {self.node}"

    @property
    def content(self) -> ContentStore:
        """The job's storage."""
        return self.settings.content()

    @property
    def progress(self) -> StageProgress:
        """The finished parts of this stage."""
        return StageProgress(self.content, self.key)

    def read(self, name: str, path: str) -> bytes:
        """One file of an input."""
        return self.content.get_bytes(self.inputs[name].file(path))

    def load(self, name: str, document: type[Document]) -> Document:
        """A document of an input."""
        return self.inputs[name].load(self.content, document)

    def find(self, name: str, document: type[Document]) -> Document | None:
        """A document of an input; None where there is no such input, or it lacks the document."""
        artifact = self.inputs.get(name)
        return None if artifact is None else artifact.find(self.content, document)

    def source(self, files: tuple[PinnedFile, ...]) -> tuple[str, Pin]:
        """The source that holds these files, after the path of the first field that names it."""
        fields = (field.path for field in source_fields(self.order.request.spec, "spec"))
        pins = self.order.pins
        return next((field, pins.of(field)) for field in fields if pins.of(field).files == files)

    def checkpoint(self, name: str = "checkpoint") -> CheckpointRef:
        """An input that is a checkpoint."""
        artifact = self.inputs[name]
        assert isinstance(artifact, CheckpointRef)
        return artifact
