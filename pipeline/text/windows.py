"""The windows of a perplexity text with what belongs to them, and the figure that their losses make."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.spec.evaluation import PerplexityContract, PerplexityResult, PerplexityText
from pipeline.spec.model import Dtype, way_to_finite
from pipeline.text.token_rows import check_token_rows
from pipeline.text.tokens import Tokenizer, perplexity_tokens, perplexity_windows


@dataclass(frozen=True)
class Windows:
    """A text cut into windows: window i holds `tokens[i]` [L] and scores its last `scored[i]` predictions."""

    text: PerplexityText
    text_digest: str
    tokens_per_byte: float
    tokens: list[Tensor]
    scored: list[int]


def cut(
    text: PerplexityText, documents: Iterable[str], tokenizer: Tokenizer, *, rows: int, field: str
) -> Windows:
    """The windows of a text. `rows`: those of the model's embedding; `field`: the source's place in the spec.
    Raises the errors of `perplexity_tokens` and `check_token_rows`."""
    tokenised = perplexity_tokens(text, documents, tokenizer)
    check_token_rows(tokenised.tokens_T, tokenizer, rows=rows, source=text.source, field=field)
    windows = perplexity_windows(text, tokenised.tokens_T)
    return Windows(
        text,
        tokenised.digest,
        tokenised.tokens_per_byte,
        [tokens for tokens, _ in windows],
        [scored for _, scored in windows],
    )


def figure(
    windows: Windows,
    outcomes: Sequence[tuple[float, int]],
    *,
    tokenizer: str,
    dtype: Dtype,
    device: str | None,
) -> PerplexityResult:
    """The perplexity of a text. `outcomes`: for each window the cross-entropy in nats, summed over the
    predictions that count, and their number; `tokenizer`: the digest of its files. Raises NumericalError
    where the loss gives no finite perplexity."""
    text = windows.text
    loss = sum(total for total, _ in outcomes) / sum(count for _, count in outcomes)
    if not math.isfinite(loss):
        raise NumericalError(f"the loss on {text.label} is {loss}: {way_to_finite(dtype)}")
    assert text.bos is not None, "the plan fills it in"
    contract = PerplexityContract(
        text_digest=windows.text_digest,
        tokenizer_digest=tokenizer,
        sequence_length=text.sequence_length,
        stride=text.stride or text.text_length,
        bos=text.bos,
        windows=len(outcomes),
        tokens_scored=sum(count for _, count in outcomes),
        tokens_per_byte=windows.tokens_per_byte,
        dtype=dtype,
        split=text.split,
        device=device,
    )
    try:
        perplexity = math.exp(loss)
    except OverflowError as error:
        raise NumericalError(f"perplexity on {text.label} overflows: loss {loss}") from error
    return PerplexityResult(
        name=text.label,
        contract=contract,
        loss=loss,
        perplexity=perplexity,
        window_losses=tuple(total / count for total, count in outcomes),
        window_tokens=tuple(count for _, count in outcomes),
    )
