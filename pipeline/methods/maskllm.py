"""MaskLLM: N:M masks that are learned end to end, the weights frozen (Fang et al., arXiv 2409.17481)."""

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.methods.admm import Admm
from pipeline.methods.base import Choice, MethodBase
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.field_error import refusal
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern
from pipeline.spec.training_recipe import Distillation, LearningRate, Optimizer, TrainingRecipe
from pipeline.spec.uri import MasksUri
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics

MOST_CANDIDATES = 70  # those of 4:8; every N:M with M up to 8 has as many or fewer


class Annealed(Frozen):
    """Goes on a straight line from `start` at the first step to `end` at the last."""

    start: float = Field(gt=0)
    end: float = Field(gt=0)

    def at(self, step: int, *, steps: int) -> float:
        """At step `step` of `steps`, counted from 0."""
        return self.start + (self.end - self.start) * step / max(steps - 1, 1)


class StoredMasks(Frozen):
    """The masks of another job, or what became of them elsewhere: `masks/masks.safetensors` of a published
    checkpoint (`file:` or `s3:`), for the same shapes and pattern."""

    kind: Literal["stored"] = "stored"
    source: MasksUri


class NamedMasks(Frozen):
    """Stored masks to compare with, of another domain for instance. `name`: what the report calls them."""

    name: str = Field(min_length=1, max_length=40)
    source: MasksUri


Prior = Annotated[
    Magnitude | Wanda | Ria | Dsnot | SparseGPT | Admm | StoredMasks, Field(discriminator="kind")
]


class MaskTraining(TrainingRecipe):
    """How masks are learned: see `tensor/soft_masks.py` for what a draw is.

    `temperature`, `scale`: of the draws. `weight_reward`: the loss is lowered by it times the sum of squares
    of all masked weights, in nats, fading to nothing at the last step. `scope`: `model` minimises the
    objective through the whole model; `block` learns one block at a time towards the dense block's output,
    for `epochs` passes over its sequences, in the memory of one block.
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


class MaskLLM(MethodBase):
    """Each group learns which of its candidate masks it draws; weights that are kept stay as they are, to the
    bit. `prior`: where learning begins; none: anywhere. `prior_strength`: a candidate's logit rises by 0.01
    times it with each weight that it keeps as the prior does.
    """

    kind: Literal["maskllm"] = "maskllm"
    prior: Prior | None = Wanda()
    prior_strength: float = Field(default=3.0, gt=0, le=1000)
    training: MaskTraining
    comparison_group: ClassVar[ComparisonGroup] = "row"

    @property
    def prior_method(self) -> Magnitude | Wanda | Ria | Dsnot | SparseGPT | Admm | None:
        """The method whose masks learning begins with."""
        return None if self.prior is None or isinstance(self.prior, StoredMasks) else self.prior

    @property
    def needs(self) -> Needs:
        """What the prior needs."""
        return self.prior_method.needs if self.prior_method is not None else frozenset()

    def check(self, pattern: Pattern) -> None:
        """N:M with few enough candidates."""
        if not isinstance(pattern, NM):
            raise InvalidSpec(
                "method maskllm learns N:M masks; use pattern kind nm, such as keep 2, group 4",
                "spec.prune.pattern.kind",
            )
        count = math.comb(pattern.group, pattern.keep)
        if count > MOST_CANDIDATES:
            raise InvalidSpec(
                f"NM({pattern.keep},{pattern.group}) has {count} candidate masks a group, each with a logit "
                f"that is trained; at most {MOST_CANDIDATES} are, which every group up to 8 keeps to",
                "spec.prune.pattern.group",
            )

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Masks are learned for all linears together: see workers/training."""
        raise AssertionError("the DAG has masks learned, not chosen linear by linear")
