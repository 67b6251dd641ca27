"""What trains: learning masks, and recovering after pruning."""

from typing import ClassVar, Literal

from pipeline.dag.stages.base import BaseStage
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.recovery import Recovery
from pipeline.spec.training_recipe import TrainingRecipe


class LearnMasks(BaseStage):
    """Training of N:M masks on the frozen weights of `checkpoint`; it is saved as Recover's is. Takes
    `tokens`, the `plan`, and the keep tensors that it begins with as `prior`, if there are any."""

    kind: Literal["learn_masks"] = "learn_masks"
    names_sources: ClassVar = True
    outputs: ClassVar = ("checkpoint", "keep", "curve", "certificate")
    unit: ClassVar = "step"
    training: MaskTraining
    prior_strength: float
    certify_every_steps: ClassVar[int] = 1  # nothing is held until the end, so there is nothing to look at

    @property
    def recipe(self) -> TrainingRecipe:
        """What it has in common with other training."""
        return self.training


class Recover(BaseStage):
    """Training after pruning; its checkpoints are stored, so that a later attempt goes on after the last.

    `sparse`: whether there are zeros to be held.
    """

    kind: Literal["recover"] = "recover"
    names_sources: ClassVar = True
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
