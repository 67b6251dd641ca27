"""The comparison of the perplexities of the dense, pruned and recovered model."""

import math
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.evaluation.contracts import (
    ELSEWHERE,
    OWN,
    UnequalContracts,
    check_same_contract,
    check_same_names,
    final_of,
    others_of,
)
from pipeline.evaluation.difference import PairedDifference
from pipeline.spec.evaluation import EvaluationResult, PerplexityContract, PerplexityResult


class Comparison(Frozen):
    """The perplexities on one text. `pruned`, `recovered`: None where the job has no such model. `ratio`: the
    final perplexity divided by the dense one. `per`: the unit of prediction; models with different tokens are
    compared by the byte, exp(loss × tokens per byte), which lm-eval calls byte perplexity. `contract`: the
    contract of the dense model. `paired`: the final perplexity minus the dense one, over the same windows;
    None where the models cut the text into other windows, where there are fewer than ten, and in comparisons
    of earlier versions."""

    name: str
    per: Literal["token", "byte"] = "token"
    dense: float
    pruned: float | None = None
    recovered: float | None = None
    ratio: float
    contract: PerplexityContract
    paired: PairedDifference | None = None

    @property
    def title(self) -> str:
        """The name of the text in tables."""
        gaps = ", in gaps" if self.contract.pairs is not None else ""
        return f"{self.name}{gaps}" if self.per == "token" else f"{self.name}{gaps}, per byte"

    @property
    def final(self) -> float:
        """The perplexity of the published model."""
        return final_of(self.pruned, self.recovered)

    @property
    def recovered_share(self) -> float | None:
        """The share of the log-perplexity lost in pruning that training has won back: 1 is all of it, and
        below 0 training has made the model worse. None where nothing was pruned, trained or lost."""
        if self.pruned is None or self.recovered is None or self.pruned <= self.dense:
            return None
        lost = math.log(self.pruned) - math.log(self.dense)
        return (math.log(self.pruned) - math.log(self.recovered)) / lost


def compare(
    dense: EvaluationResult,
    pruned: EvaluationResult | None = None,
    recovered: EvaluationResult | None = None,
    *,
    own_tokenizers: bool = False,
) -> tuple[Comparison, ...]:
    """Compare the perplexities of all models, text by text, in order; at least one of `pruned` and
    `recovered` is given. `own_tokenizers`: compare by the byte, as the models cut texts into tokens in
    different ways.

    Raises UnequalContracts that names the text and what differs.
    """
    figure = _per_byte if own_tokenizers else _per_token
    others = others_of(pruned, recovered)
    names = [result.name for result in dense.perplexity]
    for which, other in others.items():
        check_same_names(names, [result.name for result in other.perplexity], which, "texts")
    compared = []
    for i, ours in enumerate(dense.perplexity):
        values = {}
        for which, other in others.items():
            theirs = other.perplexity[i]
            check_same_contract(
                ours.contract,
                theirs.contract,
                which,
                f"perplexity on {ours.name!r}",
                but=ELSEWHERE | OWN if own_tokenizers else ELSEWHERE,
            )
            values[which] = figure(theirs)
        dense_value, final = figure(ours), list(values.values())[-1]
        compared.append(
            Comparison(
                name=ours.name,
                per="byte" if own_tokenizers else "token",
                dense=dense_value,
                pruned=values.get("pruned"),
                recovered=values.get("recovered"),
                ratio=final / dense_value,
                contract=ours.contract,
                paired=(
                    None if own_tokenizers else paired_windows(ours, list(others.values())[-1].perplexity[i])
                ),
            )
        )
    return tuple(compared)


def paired_windows(before: PerplexityResult, after: PerplexityResult) -> PairedDifference | None:
    """The difference of two perplexities over their windows; None where these are not the same tokens."""
    from pipeline.evaluation.paired import paired_perplexity  # numpy is only needed to compute

    same_tokens = before.contract.tokenizer_digest == after.contract.tokenizer_digest
    if not same_tokens or before.window_tokens != after.window_tokens or not before.window_tokens:
        return None
    return paired_perplexity(before.window_losses, after.window_losses, before.window_tokens)


def _per_token(result: PerplexityResult) -> float:
    return result.perplexity


def _per_byte(result: PerplexityResult) -> float:
    rate = result.contract.tokens_per_byte
    if rate is None:
        raise UnequalContracts(
            f"perplexity on {result.name!r} was measured without tokens per byte; evaluate it again"
        )
    return math.exp(result.loss * rate)
