"""The windows of a perplexity text with what belongs to them, and the figure that their losses make."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.architecture.parts import Pairs
from pipeline.errors import NumericalError
from pipeline.spec.evaluation import PerplexityContract, PerplexityResult, PerplexityText
from pipeline.spec.model import Dtype, way_to_finite
from pipeline.tensor.pairs import parted
from pipeline.text.spans import Gaps
from pipeline.text.token_rows import check_token_rows
from pipeline.text.tokens import Tokenizer, perplexity_tokens, perplexity_windows

GAPS_SEED = 0  # one draw of gaps for every model, so that figures can be compared


@dataclass(frozen=True)
class Windows:
    """A text cut into windows: window i holds `tokens[i]` [L] and scores its last `scored[i]` predictions.
    For an encoder-decoder it is a pair (pipeline/tensor/pairs.py), and all that the decoder writes counts;
    `pairs` says how it was made."""

    text: PerplexityText
    text_digest: str
    tokens_per_byte: float
    tokens: list[Tensor]
    scored: list[int]
    pairs: Pairs | None = None


def cut(
    text: PerplexityText,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    rows: int,
    field: str,
    pairs: Pairs | None = None,
) -> Windows:
    """The windows of a text. `rows`: those of the model's embedding; `field`: the source's place in the spec;
    `pairs`: how windows become what an encoder-decoder reads and writes. Raises the errors of
    `perplexity_tokens`, `check_token_rows` and `Gaps`."""
    tokenised = perplexity_tokens(text, documents, tokenizer)
    check_token_rows(tokenised.tokens_T, tokenizer, rows=rows, source=text.source, field=field)
    windows = perplexity_windows(text, tokenised.tokens_T)
    if pairs is not None:
        gaps = Gaps.of(tokenizer, field=field.rpartition(".")[0])
        pairs_NL = gaps.pairs(torch.stack([tokens for tokens, _ in windows]), seed=GAPS_SEED)
        windows = [(pair_L, len(parted(pair_L)[1])) for pair_L in pairs_NL]
    return Windows(
        text,
        tokenised.digest,
        tokenised.tokens_per_byte,
        [tokens for tokens, _ in windows],
        [scored for _, scored in windows],
        pairs,
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
        pairs=windows.pairs,
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
