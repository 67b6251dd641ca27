"""Perplexity and its contract: what must be equal before two figures may stand side by side."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.eval_tasks import EvalTasks
from pipeline.spec.texts import TextSource


class PerplexityText(TextSource):
    """A text and how it is cut into windows.

    Documents are joined with `join`, the first `characters` of the text are tokenised once (`bos:
    tokenizer` adds what the tokenizer adds by default, `none` adds nothing), and cut into windows of
    `sequence_length` every `stride` tokens (default: without overlap); the first `windows` of them count.
    With a stride below the length only the tokens that no earlier window has scored count.
    """

    name: str | None = Field(default=None, max_length=100)
    split: str = "test"
    documents: Literal["lines", "file"] = "file"
    join: str = "\n\n"
    characters: int | None = Field(default=None, ge=1)
    sequence_length: int = Field(default=2048, ge=2, le=1_048_576)
    stride: int | None = Field(default=None, ge=1)
    windows: int | None = Field(default=None, ge=1)
    bos: Literal["tokenizer", "none"] = "tokenizer"

    @model_validator(mode="after")
    def _stride_within_length(self) -> "PerplexityText":
        if self.stride is not None and self.stride > self.sequence_length:
            raise ValueError(
                f"stride {self.stride} exceeds sequence_length {self.sequence_length}: tokens are left out"
            )
        return self

    @property
    def label(self) -> str:
        """Name in tables: the given one, else the source's last part."""
        return self.name or self.source.rstrip("/").rsplit("/", 1)[-1]


class Evaluation(Frozen):
    """What is measured on the dense and on the pruned model. The dense baseline is always part of it."""

    perplexity: tuple[PerplexityText, ...] = Field(default=(), max_length=32)
    tasks: EvalTasks | None = None


class PerplexityContract(Frozen):
    """Everything that a perplexity depends on beside the weights.

    `tokens_per_byte`: of the whole text in UTF-8, by which models with other tokenizers can be compared.
    """

    text_digest: str
    tokenizer_digest: str
    sequence_length: int
    stride: int
    bos: Literal["tokenizer", "none"]
    windows: int
    tokens_scored: int
    tokens_per_byte: float | None = None
    dtype: str


class PerplexityResult(Frozen):
    """`loss`: mean cross-entropy over all scored tokens, in nats; `perplexity` = exp(loss).

    Without overlap all windows score equally many tokens, and this is the papers' mean over windows.
    """

    name: str
    contract: PerplexityContract
    loss: float
    perplexity: float
    window_losses: tuple[float, ...]


class EvaluationResult(Frozen):
    """All figures of one checkpoint."""

    checkpoint_digest: str
    perplexity: tuple[PerplexityResult, ...] = ()
