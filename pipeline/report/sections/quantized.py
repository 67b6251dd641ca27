"""The section of the quantized forms: what each of them loses, and how small it is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.artifacts.quantized import QuantizedWeights
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.report.inputs import Inputs
from pipeline.report.quantity import human_bytes, human_count, human_perplexity
from pipeline.report.section import Headline, ModelSection, Tile
from pipeline.spec.evaluation import EvaluationResult


class QuantizedForm(Frozen):
    """A form, and the perplexities of what its files give back."""

    weights: QuantizedWeights
    evaluation: EvaluationResult


class QuantizedHeadline(Headline):
    """The perplexity of each form on the first text; None where there is no form or no text."""

    quantized: dict[str, float] | None = None


class QuantizedSection(ModelSection):
    """The forms that the spec asks for, beside the dense and the final model."""

    quantized: tuple[QuantizedForm, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read what was found of each form, and its evaluation."""
        forms = (
            (
                inputs.find(f"quantize:{form.name}", QuantizedWeights),
                inputs.find(f"evaluation:{form.name}", EvaluationResult),
            )
            for form in inputs.spec.quantize
        )
        return {
            "quantized": tuple(
                QuantizedForm(weights=weights, evaluation=evaluation)
                for weights, evaluation in forms
                if weights is not None and evaluation is not None
            )
        }

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The perplexities on the first text. Raises UnequalContracts."""
        figures = {
            form.weights.name: figures[0].final
            for form in report.quantized
            if (figures := _compared(report, form.evaluation))
        }
        return QuantizedHeadline(quantized=figures or None)

    @classmethod
    def tiles(cls, report: Self) -> Iterable[Tile]:
        """A tile for each form."""
        for form in report.quantized:
            found, size = _compared(report, form.evaluation), human_bytes(form.weights.bytes)
            value = human_perplexity(found[0].final) if found else size
            yield Tile(
                form.weights.name, value, f"perplexity, {found[0].title}; {size}" if found else "files"
            )

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The rows of the table; None without forms."""
        if not report.quantized:
            return None
        final = report.recovered or report.pruned or report.dense
        texts = [one.title for one in _compared(report, final)]
        ordinary = report.quantized[0].weights.ordinary_bytes
        dense = [human_perplexity(one.dense) for one in _compared(report, final)]
        rows = [
            _Row("dense", dense, "–", "–", "–"),
            _Row(report.models[-1], _figures(report, final), human_bytes(ordinary), "–", "–"),
            *(_row(report, form) for form in report.quantized),
        ]
        return {"texts": texts, "rows": rows}


@dataclass(frozen=True)
class _Row:
    """One model in the table, each figure in words."""

    name: str
    figures: list[str]
    size: str
    zeros: str
    error: str


def _row(report: ModelSection, form: QuantizedForm) -> _Row:
    weights = form.weights
    size = f"{human_bytes(weights.bytes)} ({100 * weights.bytes / weights.ordinary_bytes:.0f} %)"
    zeros = f"all {human_count(weights.held)}"  # a form that lost one was never made
    return _Row(weights.name, _figures(report, form.evaluation), size, zeros, f"{weights.error:.4f}")


def _figures(report: ModelSection, evaluation: EvaluationResult) -> list[str]:
    return [human_perplexity(one.final) for one in _compared(report, evaluation)]


def _compared(report: ModelSection, evaluation: EvaluationResult) -> tuple[Comparison, ...]:
    return compare(report.dense, evaluation, own_tokenizers=report.spec.cuts_vocabulary)
