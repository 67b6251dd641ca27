"""The section that compares the perplexities of all models under one contract."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.contracts import other_devices
from pipeline.report.inputs import MODELS, Inputs
from pipeline.report.quantity import human_perplexity, human_share
from pipeline.report.section import Headline, ModelSection, Tile
from pipeline.spec.evaluation import EvaluationResult


class PerplexityHeadline(Headline):
    """A comparison for each text."""

    perplexity: tuple[Comparison, ...]


class PerplexitySection(ModelSection):
    """The perplexities. Fills `dense`, `pruned` and `recovered`."""

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the evaluation of each model."""
        return {which: inputs.find(which, EvaluationResult) for which in MODELS}

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """The perplexities of all models. Raises UnequalContracts."""
        return compare(self.dense, self.pruned, self.recovered, own_tokenizers=self.spec.cuts_vocabulary)

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The comparisons. Raises UnequalContracts."""
        return PerplexityHeadline(perplexity=report.comparisons)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for the first text, and one for the share of the loss that training won back."""
        if not report.comparisons:
            yield Tile("Perplexity", "not measured", "the spec names no text")
            return
        text, models = report.comparisons[0], report.models
        values = [value for value in (text.dense, text.pruned, text.recovered) if value is not None]
        yield Tile(
            f"Perplexity, {text.title}",
            " → ".join(map(human_perplexity, values)),
            f"{' → '.join(models)}, × {text.ratio:.3f}",
            wide=len(models) > 2,
        )
        if text.recovered_share is not None:
            yield Tile("Won back", human_share(text.recovered_share), "of the log-perplexity lost in pruning")

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """A warning where the models were evaluated on different devices."""
        evaluated = zip(MODELS, (report.dense, report.pruned, report.recovered), strict=True)
        contracts = {
            which: evaluation.perplexity[0].contract
            for which, evaluation in evaluated
            if evaluation is not None and evaluation.perplexity
        }
        yield from other_devices(contracts, "perplexities were")

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Whether any difference has an interval."""
        return {"paired": any(text.paired is not None for text in report.comparisons)}
