"""Perplexity and its contract, the values that must be equal before two figures may be compared."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.architecture.parts import Pairs
from pipeline.canonical import Frozen
from pipeline.spec.behaviour import Behaviour
from pipeline.spec.eval_tasks import EvalTasks
from pipeline.spec.texts import TextSource, is_unset, text_tokens

TextBos = Literal["tokenizer", "none", "once", "every_window"]


class PerplexityText(TextSource):
    """A text, and the way in which it is cut into windows.

    Documents are joined with `join`. The first `characters` of the text are tokenised once and cut into
    windows of `sequence_length` every `stride` tokens (default: without overlap); the first `windows` of them
    count. With a stride below the length, only tokens that no earlier window has scored count.

    `bos`: `tokenizer` adds to the text what the tokenizer adds by default, `none` nothing, `once` BOS in
    front of the text. `every_window` puts BOS in front of each window, which then has `sequence_length` - 1
    tokens of text; BOS is context and is not scored, and every token of text in the windows is scored
    exactly once. The default is the model's own habit: `every_window` for Gemma, `tokenizer` for others.
    """

    name: str | None = Field(default=None, max_length=100)
    split: str = "test"
    documents: Literal["lines", "file"] = "file"
    join: str = "\n\n"
    characters: int | None = Field(default=None, ge=1)
    sequence_length: int = Field(default=2048, ge=2, le=1_048_576)
    stride: int | None = Field(default=None, ge=1)
    windows: int | None = Field(default=None, ge=1)
    bos: TextBos | None = Field(default=None, exclude_if=is_unset)

    @model_validator(mode="after")
    def _stride_within_length(self) -> "PerplexityText":
        if self.stride is not None and self.stride > self.text_length:
            beside = " - 1, which BOS leaves of a window" if self.bos == "every_window" else ""
            raise ValueError(
                f"stride {self.stride} exceeds sequence_length {self.sequence_length}{beside}: tokens are "
                f"left out"
            )
        return self

    @property
    def text_length(self) -> int:
        """The number of tokens of text in a window."""
        return text_tokens(self.sequence_length, self.bos)

    @property
    def label(self) -> str:
        """The name in tables: the given one, else the last part of the source."""
        return self.name or self.source.rstrip("/").rsplit("/", 1)[-1]


class Evaluation(Frozen):
    """The measurements on the dense and on the pruned model. The dense model is always measured too."""

    perplexity: tuple[PerplexityText, ...] = Field(default=(), max_length=32)
    tasks: EvalTasks | None = None
    behaviour: Behaviour | None = Field(default=None, exclude_if=is_unset)


class PerplexityContract(Frozen):
    """Everything that a perplexity depends on beside the weights.

    `text_digest` is that of the text as it was tokenised, and `split` the split of the dataset that it was
    taken from. `tokens_per_byte` is that of the whole text in UTF-8. It lets models with other tokenizers be
    compared. `device`: `cpu`, or the name of the GPU. Fields that are None in figures of earlier versions
    were not recorded then. `pairs`: set where an encoder-decoder fills gaps in each window, so that only what
    was in the gaps is scored.
    """

    text_digest: str
    tokenizer_digest: str
    sequence_length: int
    stride: int
    bos: TextBos
    windows: int
    tokens_scored: int
    tokens_per_byte: float | None = None
    dtype: str
    split: str | None = None
    device: str | None = None
    pairs: Pairs | None = Field(default=None, exclude_if=is_unset)


class PerplexityResult(Frozen):
    """The perplexity of one text. `loss`: mean cross-entropy over all scored tokens, in nats; `perplexity` =
    exp(loss). `window_losses`: the mean over each window, which scores `window_tokens`; that is empty in
    figures of earlier versions.

    Without overlap all windows score equally many tokens, and this is the papers' mean over windows.
    """

    name: str
    contract: PerplexityContract
    loss: float
    perplexity: float
    window_losses: tuple[float, ...]
    window_tokens: tuple[int, ...] = ()


class EvaluationResult(Frozen):
    """All figures of one checkpoint."""

    checkpoint_digest: str
    perplexity: tuple[PerplexityResult, ...] = ()
