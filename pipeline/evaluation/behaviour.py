"""How models continue the same prompts: samples, their figures, and the comparison of two models."""

from collections.abc import Sequence
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.evaluation.contracts import UnequalContracts, check_same_contract


class BehaviourContract(Frozen):
    """Everything that generated texts depend on beside the weights.

    `prompts_digest` covers the prompts as the tokenizer gets them, template included. `decoding`: `greedy`
    takes the most probable token. `template`: True if the chat template put the prompts as messages.
    """

    prompts_digest: str
    prompts: int
    tokenizer_digest: str
    decoding: Literal["greedy"] = "greedy"
    max_new_tokens: int
    template: bool
    bos: Literal["every_window"] | None = None
    ngram: int
    dtype: str
    device: str


class Continuation(Frozen):
    """One prompt and how it was continued by `tokens` tokens. `ended`: EOS came before `max_new_tokens`.
    `repetition`: see `repetition` below."""

    prompt: str
    text: str
    tokens: int
    ended: bool
    repetition: float


class BehaviourResult(Frozen):
    """Content of `behaviour.json`: the continuations of one checkpoint, in the order of the prompts."""

    checkpoint_digest: str
    contract: BehaviourContract
    continuations: tuple[Continuation, ...]

    @property
    def figures(self) -> "BehaviourFigures":
        """The means over all prompts."""
        count = len(self.continuations)
        return BehaviourFigures(
            tokens=sum(one.tokens for one in self.continuations) / count,
            repetition=sum(one.repetition for one in self.continuations) / count,
            ended=sum(one.ended for one in self.continuations) / count,
        )


class BehaviourFigures(Frozen):
    """Means over prompts: tokens of a continuation, its share of repeated n-grams, and the share of prompts
    whose continuation ended by itself."""

    tokens: float
    repetition: float
    ended: float


class BehaviourComparison(Frozen):
    """The figures of the dense and of the final model. `equal`: prompts that both continue with the same
    text."""

    dense: BehaviourFigures
    final: BehaviourFigures
    prompts: int
    equal: int
    contract: BehaviourContract


def repetition(tokens: Sequence[int], *, n: int) -> float:
    """Returns the share of a text's n-grams that occurred in it before: 1 - distinct n-grams / n-grams. It is
    0 for a text of fewer than n + 1 tokens."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compare_behaviour(
    dense: BehaviourResult, final: BehaviourResult, which: str, *, own_tokenizers: bool = False
) -> BehaviourComparison:
    """Compares two models under one contract. `which`: the name of the final model; `own_tokenizers`: the
    models cut texts into tokens in different ways. Raises UnequalContracts."""
    but = frozenset({"tokenizer_digest"}) if own_tokenizers else frozenset[str]()
    check_same_contract(dense.contract, final.contract, which, "behaviour", but=but)
    pairs = list(zip(dense.continuations, final.continuations, strict=True))
    if any(one.prompt != other.prompt for one, other in pairs):
        raise UnequalContracts(f"behaviour is not comparable: {which} was given other prompts than dense")
    return BehaviourComparison(
        dense=dense.figures,
        final=final.figures,
        prompts=len(pairs),
        equal=sum(one.text == other.text for one, other in pairs),
        contract=dense.contract,
    )
