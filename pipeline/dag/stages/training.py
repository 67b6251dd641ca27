"""The stages that train: learning masks, and recovery after pruning."""

from typing import ClassVar, Literal

from pipeline.dag.stages.base import BaseStage
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.recovery import Recovery
from pipeline.spec.training_recipe import TrainingRecipe


class LearnMasks(BaseStage):
    """Training of N:M masks on the frozen weights of `checkpoint`; its checkpoints are stored as those of
    Recover are. Takes `tokens`, the `plan`, and as `prior` the keep tensors that it begins with, if there are
    any."""

    kind: Literal["learn_masks"] = "learn_masks"
    names_sources: ClassVar = True
    outputs: ClassVar = ("checkpoint", "keep", "curve", "certificate")
    unit: ClassVar = "step"
    training: MaskTraining
    prior_strength: float
    certify_every_steps: ClassVar[int] = 1  # no zeros are held before the end, so there is nothing to check

    @property
    def recipe(self) -> TrainingRecipe:
        """The fields that all trainings share."""
        return self.training


class Recover(BaseStage):
    """Training after pruning; its checkpoints are stored, so that a later attempt continues from the last.

    `sparse`: True if there are zeros to hold.
    """

    kind: Literal["recover"] = "recover"
    names_sources: ClassVar = True
    unit: ClassVar = "step"
    recovery: Recovery
    sparse: bool

    @property
    def certify_every_steps(self) -> int:
        """The number of steps between two checks of the zeros."""
        return self.recovery.certify_every_steps

    @property
    def recipe(self) -> TrainingRecipe:
        """The fields that all trainings share."""
        return self.recovery

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the artifacts that this kind of training makes."""
        held = ("keep", "certificate") if self.sparse else ()
        adapter = ("adapter",) if self.recovery.trains.kind == "lora" else ()
        return ("checkpoint", "curve", *held, *adapter)
