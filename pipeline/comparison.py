"""Dense and pruned side by side, and only where both were measured under the same contract."""

from pipeline.canonical import Frozen
from pipeline.errors import StageError
from pipeline.evaluation import EvaluationResult, PerplexityContract


class UnequalContracts(StageError):
    """Two perplexities that may not stand side by side."""

    code = "unequal_contracts"
    retryable = False


class Comparison(Frozen):
    """One text. `ratio` = pruned / dense perplexity."""

    name: str
    dense: float
    pruned: float
    ratio: float
    contract: PerplexityContract


def compare(dense: EvaluationResult, pruned: EvaluationResult) -> tuple[Comparison, ...]:
    """The figures of both, text by text, in order.

    Raises UnequalContracts that names the text and what differs.
    """
    dense_names = [result.name for result in dense.perplexity]
    pruned_names = [result.name for result in pruned.perplexity]
    if dense_names != pruned_names:
        raise UnequalContracts(
            f"dense was evaluated on {dense_names}, pruned on {pruned_names}; evaluate both on the same texts"
        )
    pairs = zip(dense.perplexity, pruned.perplexity, strict=True)
    compared = []
    for ours, theirs in pairs:
        differing = _differences(ours.contract, theirs.contract)
        if differing:
            raise UnequalContracts(f"perplexity on {ours.name!r} is not comparable: {'; '.join(differing)}")
        compared.append(
            Comparison(
                name=ours.name,
                dense=ours.perplexity,
                pruned=theirs.perplexity,
                ratio=theirs.perplexity / ours.perplexity,
                contract=ours.contract,
            )
        )
    return tuple(compared)


def _differences(dense: PerplexityContract, pruned: PerplexityContract) -> list[str]:
    before, after = dense.model_dump(), pruned.model_dump()
    return [
        f"{field} is {value} for dense and {after[field]} for pruned"
        for field, value in before.items()
        if value != after[field]
    ]
