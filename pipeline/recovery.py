"""Recovery training: what is trained after pruning, on what, towards what, and how zeros are held.

Everything here changes the result and enters stage keys. How the work is split (ZeRO stage, micro-batches,
offload) stands in resources (TrainingResources).
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.model import Dtype, ModelSource
from pipeline.refusal import refusal
from pipeline.texts import TextSource

Share = Annotated[float, Field(ge=0, le=1)]


class TrainingText(TextSource):
    """The text that is trained on: documents, each ended by EOS, in one row, cut into sequences, no padding.

    Sequences are shuffled by `seed`. The first `validation_sequences` of the row are held out. `epochs`: how
    often the text may be gone through before it counts as too short.
    """

    sequence_length: int = Field(default=2048, ge=8, le=1_048_576)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    validation_sequences: int = Field(default=32, ge=0, le=100_000)
    epochs: int = Field(default=1, ge=1, le=1000)


class LanguageModelling(Frozen):
    """Mean cross-entropy of the next token."""

    kind: Literal["language_modelling"] = "language_modelling"


class Distillation(Frozen):
    """The student's distribution over the next token follows the teacher's (Hinton et al., arXiv 1503.02531).

    `divergence`: `forward` is KL(teacher ‖ student), `reverse` KL(student ‖ teacher), `jensen_shannon` the
    mean of both against their mixture. Temperature T divides the logits; the divergence is multiplied by T².
    loss = (1 - lm_weight) · divergence + lm_weight · cross-entropy + hidden_weight · hidden-state distance.
    `top_k`: only the teacher's k most probable tokens are told apart, the rest is one outcome.
    `hidden_weight`: mean squared distance of hidden states after matching blocks, relative to the teacher's
    mean square; hidden sizes must agree. `teacher`: left out, the model of the spec before pruning.
    """

    kind: Literal["distillation"] = "distillation"
    divergence: Literal["forward", "reverse", "jensen_shannon"] = "forward"
    temperature: float = Field(default=1.0, gt=0, le=100)
    lm_weight: Share = 0.1
    top_k: int | None = Field(default=None, ge=1)
    hidden_weight: float = Field(default=0.0, ge=0)
    teacher: ModelSource | None = None


Objective = Annotated[LanguageModelling | Distillation, Field(discriminator="kind")]


class Full(Frozen):
    """Every parameter."""

    kind: Literal["full"] = "full"


class Lora(Frozen):
    """Low-rank updates of the prunable linears (Hu et al., arXiv 2106.09685), merged at the end.

    The update is masked as the weight is, in training and in the merge, so that the merged model is the one
    that was trained and keeps every zero. `linears`: names inside a block; left out, all prunable ones.
    """

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1, le=4096)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    linears: tuple[str, ...] | None = Field(default=None, min_length=1)


class NormsAndBiases(Frozen):
    """Vectors only: the weights of norms, and all biases."""

    kind: Literal["norms_and_biases"] = "norms_and_biases"


class Reconstruction(Frozen):
    """Block by block: the pruned block's output on pruned inputs approaches the dense block's on dense ones.

    No pass through the whole model; each block is trained for `epochs` passes over the sequences that
    `tokens` or `steps` ask for, then its outputs become the next block's inputs. The objective is its own.
    """

    kind: Literal["reconstruction"] = "reconstruction"
    epochs: int = Field(default=4, ge=1, le=1000)


Trains = Annotated[Full | Lora | NormsAndBiases | Reconstruction, Field(discriminator="kind")]


class Held(Frozen):
    """The zeros of pruning stay zero."""

    kind: Literal["held"] = "held"


class Dynamic(Frozen):
    """Grow and prune (RigL, Evci et al., arXiv 1911.11134): every `every_steps` steps each linear drops its
    smallest kept weights and grows as many with the largest gradients; sparsity stays. `share`: of the kept
    weights at the first update, decayed by a cosine until `until` of the training has passed.
    """

    kind: Literal["dynamic"] = "dynamic"
    every_steps: int = Field(default=100, ge=1)
    share: float = Field(default=0.1, gt=0, lt=1)
    until: float = Field(default=0.75, gt=0, le=1)


class Gradual(Frozen):
    """From the sparsity of pruning to `sparsity` in each linear, along a cubic (Zhu and Gupta, arXiv
    1710.01878): every `every_steps` steps the smallest weights go, until `until` of the training has passed.
    """

    kind: Literal["gradual"] = "gradual"
    sparsity: float = Field(gt=0, lt=1)
    every_steps: int = Field(default=50, ge=1)
    until: float = Field(default=0.6, gt=0, le=1)


KeepRule = Annotated[Held | Dynamic | Gradual, Field(discriminator="kind")]


class LearningRate(Frozen):
    """`peak` after `warmup_steps` of linear growth, then down to `final` of it at the last step."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    peak: float = Field(default=1e-4, gt=0, le=1)
    warmup_steps: int = Field(default=20, ge=0)
    final: Share = 0.1

    def at(self, step: int, *, steps: int) -> float:
        """The rate of step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(steps - 1 - self.warmup_steps, 1)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.peak * (self.final + (1 - self.final) * left)


class Optimizer(Frozen):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101). Vectors (norms, biases) are not decayed."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clipping: float | None = Field(default=1.0, gt=0)


class EarlyStop(Frozen):
    """Stop after `patience` validations in a row that did not lower the loss by `margin` nats; the weights of
    the best validation are the result."""

    patience: int = Field(default=3, ge=1)
    margin: float = Field(default=0.0, ge=0)


class Recovery(Frozen):
    """Training after pruning, with the zeros held.

    Exactly one of `tokens` and `steps`; a step takes `global_batch_size` sequences. `precision` is the type
    of weights and activations in the forward and backward pass; master weights and optimizer are float32.
    `divergence_margin`: training stops when the mean loss of 20 steps is that many nats above the lowest
    before.
    """

    text: TrainingText
    objective: Objective = Field(default_factory=LanguageModelling)
    trains: Trains = Field(default_factory=Full)
    keep: KeepRule = Field(default_factory=Held)
    tokens: int | None = Field(default=None, ge=1, description="Budget; rounded up to whole steps.")
    steps: int | None = Field(default=None, ge=1)
    global_batch_size: int = Field(default=64, ge=1, description="Sequences per optimizer step.")
    learning_rate: LearningRate = Field(default_factory=LearningRate)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    precision: Dtype = "float32"
    validate_every_steps: int = Field(default=100, ge=1)
    early_stop: EarlyStop | None = None
    certify_every_steps: int = Field(default=50, ge=1, description="Zeros in master weights and moments.")
    divergence_margin: float = Field(default=2.0, gt=0)

    WINDOW: ClassVar[int] = 20

    @model_validator(mode="after")
    def _agreement(self) -> Self:
        if self.tokens is None and self.steps is None:
            raise ValueError("needs tokens or steps: how long to train")
        if self.tokens is not None and self.steps is not None:
            raise refusal("got steps and tokens; give one of them", "steps", got=self.steps)
        warmup = self.learning_rate.warmup_steps
        if warmup >= self.total_steps > 1:
            raise refusal(
                f"{warmup} leaves nothing of the {self.total_steps} steps; use fewer",
                "learning_rate",
                "warmup_steps",
                got=warmup,
            )
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
    def total_steps(self) -> int:
        """Optimizer steps."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // (self.global_batch_size * self.text.sequence_length))

    @property
    def sequences(self) -> int:
        """Training sequences that all steps take together."""
        return self.total_steps * self.global_batch_size

    @property
    def needs_teacher(self) -> bool:
        """Whether a dense model runs beside the student."""
        return self.objective.kind == "distillation" or self.trains.kind == "reconstruction"
