"""The stages that read sources (models, masks, texts and task files) for the stages after them."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.architecture.parts import Pairs
from pipeline.dag.stages.base import BaseStage
from pipeline.sources.pins import PinnedFile
from pipeline.spec.eval_tasks import LM_EVAL_VERSION, EvalTask
from pipeline.spec.model import Dtype
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.texts import Calibration, is_unset
from pipeline.spec.training_recipe import TrainingText


class ImportModel(BaseStage):
    """Copies a checkpoint into the content store, verified against its pin and compared with its model."""

    kind: Literal["import_model"] = "import_model"
    version: ClassVar = 2
    outputs: ClassVar = ("checkpoint",)
    unit: ClassVar = "MB"
    files: tuple[PinnedFile, ...]


class ImportKeep(BaseStage):
    """Copies stored keep tensors into the content store. They are checked against the shapes of `checkpoint`
    and, if learning begins with them, against the patterns of `plan`."""

    kind: Literal["import_keep"] = "import_keep"
    outputs: ClassVar = ("keep",)
    unit: ClassVar = "block"
    files: tuple[PinnedFile, ...]


class Calibrate(BaseStage):
    """Documents → calibration samples. Reads `checkpoint` for its tokenizer only. `pairs`: for an
    encoder-decoder, how a sample becomes what the encoder reads and what the decoder writes."""

    kind: Literal["calibrate"] = "calibrate"
    names_sources: ClassVar = True
    outputs: ClassVar = ("samples",)
    files: tuple[PinnedFile, ...]
    calibration: Calibration
    pairs: Pairs | None = Field(default=None, exclude_if=is_unset)


class CalibrateSelf(BaseStage):
    """Prompts, continued by `checkpoint` → calibration samples. `files`: those of the prompts, if they are a
    text. `begins`: BOS is put in front of every prompt, whatever the tokenizer does."""

    kind: Literal["calibrate_self"] = "calibrate_self"
    names_sources: ClassVar = True
    outputs: ClassVar = ("samples",)
    unit: ClassVar = "token"
    files: tuple[PinnedFile, ...]
    calibration: SelfCalibration
    begins: bool
    compute_dtype: Dtype


class HoldOut(BaseStage):
    """Documents → samples beside those of the calibration, to score candidates on. Takes the same inputs as
    Calibrate."""

    kind: Literal["hold_out"] = "hold_out"
    names_sources: ClassVar = True
    outputs: ClassVar = ("samples",)
    files: tuple[PinnedFile, ...]
    calibration: Calibration
    samples: int
    pairs: Pairs | None = Field(default=None, exclude_if=is_unset)


class PrepareText(BaseStage):
    """Documents → shuffled training sequences. Reads `checkpoint` for its tokenizer only. `sequences`: the
    number that is needed beside those held out."""

    kind: Literal["prepare_text"] = "prepare_text"
    names_sources: ClassVar = True
    outputs: ClassVar = ("tokens",)
    unit: ClassVar = "sequence"
    files: tuple[PinnedFile, ...]
    text: TrainingText
    sequences: int


class CheckTasks(BaseStage):
    """Names of tasks → their definitions and data, one artifact for each name. An unknown name, or data that
    cannot be read, fails the job before anything is pruned. Datasets of the hub are pinned to the commit
    found then."""

    kind: Literal["check_tasks"] = "check_tasks"
    unit: ClassVar = "task"
    tasks: tuple[EvalTask, ...]
    include: tuple[PinnedFile, ...]
    harness_version: str = LM_EVAL_VERSION

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the tasks."""
        return tuple(task.name for task in self.tasks)
