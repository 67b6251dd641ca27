"""The training of N:M masks on frozen weights, which all learned methods share."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.field_error import refusal
from pipeline.spec.training_recipe import Distillation, LearningRate, Optimizer, TrainingRecipe


class Annealed(Frozen):
    """A value that changes linearly from `start` at the first step to `end` at the last."""

    start: float = Field(gt=0)
    end: float = Field(gt=0)

    def at(self, step: int, *, steps: int) -> float:
        """The value at step `step` of `steps`, counted from 0."""
        return self.start + (self.end - self.start) * step / max(steps - 1, 1)


class MaskTraining(TrainingRecipe):
    """The recipe by which masks are learned; `tensor/soft_masks.py` explains draws.

    `temperature` and `scale` are those of the draws. `weight_reward`: the loss is lowered by this value times
    the sum of squares of all masked weights, in nats; it fades to 0 at the last step. `scope`: `model`
    minimises the objective through the whole model; `block` learns one block at a time towards the dense
    block's output, for `epochs` passes over its sequences, in the memory of one block.
    """

    learning_rate: LearningRate = Field(default_factory=lambda: LearningRate(peak=5e-4))
    optimizer: Optimizer = Field(
        default_factory=lambda: Optimizer(betas=(0.9, 0.95), epsilon=1e-5, weight_decay=0.1)
    )
    temperature: Annealed = Field(default_factory=lambda: Annealed(start=4, end=0.05))
    scale: Annealed = Field(default_factory=lambda: Annealed(start=100, end=500))
    weight_reward: float = Field(default=0.0, ge=0)
    scope: Literal["model", "block"] = "model"
    epochs: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _scoped(self) -> "MaskTraining":
        if self.scope == "model" and self.epochs != 1:
            raise refusal(
                "epochs are those of scope block; give tokens or steps, and text.epochs to go through the "
                "text more than once",
                "epochs",
                got=self.epochs,
            )
        if self.scope == "block" and isinstance(self.objective, Distillation):
            raise refusal(
                "scope block has an objective of its own (the dense block's output); leave objective out",
                "objective",
            )
        return self
