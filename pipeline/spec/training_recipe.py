"""The fields that every training in a job has: its text, objective, length, learning rate and optimizer.

Everything here changes the result and enters stage keys. The way in which the work is split (ZeRO stage,
micro-batches, offload) belongs to resources (TrainingResources).
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.field_error import refusal
from pipeline.spec.model import Dtype, ModelSource
from pipeline.spec.texts import Bos, TextSource, is_unset, text_tokens

Share = Annotated[float, Field(ge=0, le=1)]


class TrainingText(TextSource):
    """The training text: documents, each ended by EOS, are joined and cut into sequences without padding.

    The first `validation_sequences` are held out, the others are shuffled by `seed`. `epochs`: the number of
    passes over the text that are allowed before it counts as too short. `bos`: `none` has no BOS, `once` one
    in front of each document, `every_window` one in front of each sequence, which then has
    `sequence_length` - 1 tokens of text. The default is the model's own habit: `every_window` for Gemma,
    `none` for others.
    """

    sequence_length: int = Field(default=2048, ge=8, le=1_048_576)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    validation_sequences: int = Field(default=32, ge=0, le=100_000)
    epochs: int = Field(default=1, ge=1, le=1000)
    bos: Bos | None = Field(default=None, exclude_if=is_unset)

    @property
    def text_length(self) -> int:
        """The number of tokens of text in a sequence."""
        return text_tokens(self.sequence_length, self.bos)


class LanguageModelling(Frozen):
    """The mean cross-entropy of the next token."""

    kind: Literal["language_modelling"] = "language_modelling"


class Distillation(Frozen):
    """The student's distribution over the next token follows the teacher's (Hinton et al., arXiv 1503.02531).

    `divergence`: `forward` is KL(teacher ‖ student), `reverse` KL(student ‖ teacher), `jensen_shannon` the
    mean of both against their mixture. Temperature T divides the logits; the divergence is multiplied by T².
    loss = (1 - lm_weight) · divergence + lm_weight · cross-entropy + hidden_weight · hidden-state distance.
    `top_k`: only the teacher's k most probable tokens are distinguished, the rest is one outcome.
    `hidden_weight`: weight of the mean squared distance of hidden states after matching blocks, relative to
    the teacher's mean square; hidden sizes must agree. `teacher`: the default is the spec's model before
    pruning.
    """

    kind: Literal["distillation"] = "distillation"
    divergence: Literal["forward", "reverse", "jensen_shannon"] = "forward"
    temperature: float = Field(default=1.0, gt=0, le=100)
    lm_weight: Share = 0.1
    top_k: int | None = Field(default=None, ge=1)
    hidden_weight: float = Field(default=0.0, ge=0)
    teacher: ModelSource | None = None


Objective = Annotated[LanguageModelling | Distillation, Field(discriminator="kind")]


class LearningRate(Frozen):
    """The learning rate grows linearly to `peak` in `warmup_steps`, then falls to the share `final` of it at
    the last step, unless it is constant."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    peak: float = Field(default=1e-4, gt=0, le=1)
    warmup_steps: int = Field(default=20, ge=0)
    final: Share = 0.1

    def at(self, step: int, *, steps: int) -> float:
        """The learning rate of step `step` of `steps`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        done = (step - self.warmup_steps) / max(steps - 1 - self.warmup_steps, 1)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.peak * (self.final + (1 - self.final) * left)


class Optimizer(Frozen):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101). Vectors (norms, biases) have no weight decay."""

    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clipping: float | None = Field(default=1.0, gt=0)


class TrainingRecipe(Frozen):
    """The recipe of a training. It has `tokens` or `steps`; a step takes `global_batch_size` sequences.

    `precision` is the type of weights and activations in the forward and backward pass; trained parameters
    have float32 master weights and moments. `divergence_margin`: training stops when the mean loss of 20
    steps is this many nats above the lowest before.
    """

    text: TrainingText
    objective: Objective = Field(default_factory=LanguageModelling)
    tokens: int | None = Field(default=None, ge=1, description="Budget; rounded up to whole steps.")
    steps: int | None = Field(default=None, ge=1)
    global_batch_size: int = Field(default=64, ge=1, description="Sequences per optimizer step.")
    learning_rate: LearningRate = Field(default_factory=LearningRate)
    optimizer: Optimizer = Field(default_factory=Optimizer)
    precision: Dtype = "float32"
    validate_every_steps: int = Field(default=100, ge=1)
    divergence_margin: float = Field(default=2.0, gt=0)

    WINDOW: ClassVar[int] = 20

    @model_validator(mode="after")
    def _budget(self) -> Self:
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
        return self

    @property
    def total_steps(self) -> int:
        """The number of optimizer steps."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // (self.global_batch_size * self.text.sequence_length))

    @property
    def sequences(self) -> int:
        """The number of training sequences that all steps take together."""
        return self.total_steps * self.global_batch_size

    @property
    def needs_teacher(self) -> bool:
        """Tells whether a dense model runs beside the student."""
        return self.objective.kind == "distillation"
