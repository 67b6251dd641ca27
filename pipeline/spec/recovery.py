"""Recovery training: the fields beside those of every training, which choose the trained weights and hold
zeros."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.field_error import refusal
from pipeline.spec.training_recipe import Distillation, TrainingRecipe


class Full(Frozen):
    """Every parameter is trained."""

    kind: Literal["full"] = "full"


class Lora(Frozen):
    """Low-rank updates of the prunable linears are trained, and merged at the end (Hu et al., arXiv
    2106.09685).

    The update is masked like the weight, in training and in the merge, so that the merged model is the one
    that was trained and keeps every zero. `linears`: names inside a block; the default is all prunable ones
    outside of experts. The place of a block's experts, such as `mlp.experts`, names all of their linears.
    """

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    linears: tuple[str, ...] | None = Field(default=None, min_length=1)


class NormsAndBiases(Frozen):
    """Only vectors are trained: the weights of norms, and all biases."""

    kind: Literal["norms_and_biases"] = "norms_and_biases"


class Reconstruction(Frozen):
    """Blocks are trained one by one: a pruned block's output on pruned inputs approaches the dense block's
    output on dense inputs.

    Each block is trained for `epochs` passes over the sequences that `tokens` or `steps` ask for, then its
    outputs become the next block's inputs. There is no pass through the whole model, and no other objective.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    epochs: int = Field(default=4, ge=1, le=1000)


Trains = Annotated[Full | Lora | NormsAndBiases | Reconstruction, Field(discriminator="kind")]


class Held(Frozen):
    """The zeros of pruning stay zero."""

    kind: Literal["held"] = "held"


class Dynamic(Frozen):
    """Zeros move at equal sparsity (RigL, Evci et al., arXiv 1911.11134).

    Every `every_steps` steps each linear drops its smallest kept weights and grows as many with the largest
    gradients. `share`: the share of kept weights that the first update drops; it decays along a cosine until
    `until` of the training has passed.
    """

    kind: Literal["dynamic"] = "dynamic"
    every_steps: int = Field(default=100, ge=1)
    share: float = Field(default=0.1, gt=0, lt=1)
    until: float = Field(default=0.75, gt=0, le=1)


class Gradual(Frozen):
    """Each linear's sparsity grows along a cubic from that of pruning to `sparsity` (Zhu and Gupta, arXiv
    1710.01878): every `every_steps` steps the smallest weights are pruned, until `until` of the training has
    passed.
    """

    kind: Literal["gradual"] = "gradual"
    sparsity: float = Field(gt=0, lt=1)
    every_steps: int = Field(default=50, ge=1)
    until: float = Field(default=0.6, gt=0, le=1)


KeepRule = Annotated[Held | Dynamic | Gradual, Field(discriminator="kind")]


class EarlyStop(Frozen):
    """Training stops after `patience` validations in a row that did not lower the loss by `margin` nats. The
    weights of the best validation are the result."""

    patience: int = Field(default=3, ge=1)
    margin: float = Field(default=0.0, ge=0)


class Recovery(TrainingRecipe):
    """Training after pruning, with the zeros held."""

    trains: Trains = Field(default_factory=Full)
    keep: KeepRule = Field(default_factory=Held)
    early_stop: EarlyStop | None = None
    certify_every_steps: int = Field(default=50, ge=1, description="Zeros in master weights and moments.")

    @model_validator(mode="after")
    def _cross_checks(self) -> Self:
        self._check_early_stop()
        if self.trains.kind == "reconstruction" and isinstance(self.objective, Distillation):
            raise refusal(
                "trains kind reconstruction has an objective of its own (the dense block's output); leave "
                "objective out",
                "objective",
            )
        if self.keep.kind != "held":
            self._check_moves(self.keep)
        return self

    def _check_early_stop(self) -> None:
        if self.early_stop is None:
            return
        if self.text.validation_sequences == 0:
            raise refusal(
                "early_stop goes by held-out text; hold out at least 1 sequence",
                "text",
                "validation_sequences",
                got=0,
            )
        if self.trains.kind == "reconstruction":
            raise refusal("does not apply to trains kind reconstruction; leave it out", "early_stop")
        if self.keep.kind == "gradual":
            raise refusal(
                "the best weights may be those of a step at which keep kind gradual had not reached its "
                "sparsity; leave early_stop out",
                "early_stop",
            )

    def _check_moves(self, keep: Dynamic | Gradual) -> None:
        if self.trains.kind != "full":
            raise refusal(
                f"keep kind {keep.kind} moves zeros, which needs trains kind full",
                "trains",
                "kind",
                got=self.trains.kind,
            )
        if keep.every_steps > keep.until * self.total_steps:
            raise refusal(
                f"got {keep.every_steps}, and zeros move until {keep.until:g} of {self.total_steps} steps: "
                f"none ever would; use fewer, raise keep.until, or train longer",
                "keep",
                "every_steps",
                got=keep.every_steps,
            )

    @property
    def needs_teacher(self) -> bool:
        """Tells whether a dense model runs beside the student."""
        return super().needs_teacher or self.trains.kind == "reconstruction"
