"""The work that every worker of a training run is given, and the runtime that it calls."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import ArtifactRef, CheckpointRef, KeepRef, TokensRef
from pipeline.canonical import Frozen
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.training import LearnMasks, Recover
from pipeline.request.resources import TrainingResources
from pipeline.spec.patterns import Pattern
from workers.context import Step
from workers.settings import WorkerSettings


@dataclass(frozen=True)
class Work:
    """Everything that a training worker needs to know; it crosses process borders.

    `keep`: the keep tensors whose zeros are held. `prior`: those that the learning of masks begins with.
    `patterns`: each block's pattern, where pruning chose them. `model_name`: the base model that an adapter
    names.
    """

    settings: WorkerSettings
    key: str
    stage: Recover | LearnMasks
    resources: TrainingResources
    checkpoint: CheckpointRef
    tokens: TokensRef
    keep: KeepRef | None
    prior: KeepRef | None
    patterns: Sequence[Pattern] | None
    teacher: CheckpointRef | None
    model_name: str
    cuda: bool

    @property
    def device(self) -> torch.device:
        """The device of this worker's model."""
        return torch.device("cuda", torch.cuda.current_device()) if self.cuda else torch.device("cpu")

    @property
    def row(self) -> Architecture:
        """The architecture row of the model type."""
        reader = CheckpointReader(self.settings.content(), self.checkpoint)
        return row_for(str(reader.config["model_type"]))


class TrainingRuntime(Protocol):
    """The runtime of a training's workers: Ray Train, or a test."""

    def restored(self) -> AbstractContextManager[Path | None]:
        """The latest training checkpoint in a local directory; None to start from the beginning."""
        ...

    def save(self, directory: Path, *, step: int) -> None:
        """Store all workers' parts as the training checkpoint of `step`. All workers call it."""
        ...

    def preempted(self) -> bool:
        """Tells whether a worker's machine is about to be taken away. All workers call it, and get the same
        answer."""
        ...

    def tell(self, step: Step) -> None:
        """Report a step to the driver. Rank 0 calls it."""
        ...


class TrainingResult(Frozen):
    """The artifacts of a training, and what it used."""

    artifacts: dict[str, ArtifactRef]
    tokens: int
    seconds: float
    peak_memory_bytes: int
