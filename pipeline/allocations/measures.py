"""Measures of a model that allocations need: one number per block, or per linear."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.spec.sparsity_plan import Weights


class OutlierRatio(Frozen):
    """The percentage of saliencies |W|·norm above `multiplier` times their mean (OWL, arXiv 2310.05175). Mean
    and count are taken over each block, or over each linear."""

    kind: Literal["outlier_ratio"] = "outlier_ratio"
    needs_samples: ClassVar[bool] = True
    multiplier: float
    scope: Literal["block", "linear"] = "block"

    @property
    def title(self) -> str:
        """The title of charts."""
        return f"Outlier ratio: % of saliencies above {self.multiplier:g} × the {self.scope}'s mean"


class SaliencyMedian(Frozen):
    """The median of |W|·norm over a block's linears (DLP, arXiv 2505.23807)."""

    kind: Literal["saliency_median"] = "saliency_median"
    needs_samples: ClassVar[bool] = True
    scope: Literal["block"] = "block"

    @property
    def title(self) -> str:
        """The title of charts."""
        return "Median of the saliencies |W| · norm"


class HillAlpha(Frozen):
    """Hill's estimate of the tail exponent of WᵀW's eigenvalues, averaged over a block's linears
    (AlphaPruning, arXiv 2410.10912)."""

    kind: Literal["hill_alpha"] = "hill_alpha"
    needs_samples: ClassVar[bool] = False
    scope: Literal["block"] = "block"

    @property
    def title(self) -> str:
        """The title of charts."""
        return "Hill estimate of the spectra's tail exponent, mean over the block's linears"


Measure = Annotated[OutlierRatio | SaliencyMedian | HillAlpha, Field(discriminator="kind")]


class Measurements(Frozen):
    """The content of `measurements.json`. `blocks`: a value per block. `linears`: a value per linear of each
    block if linears were measured; then `blocks` has their means. `title`: the title of charts."""

    measure: Measure
    title: str
    blocks: tuple[float, ...]
    linears: tuple[dict[str, float], ...] = ()

    def values(self, weights: Weights) -> tuple[float, ...]:
        """The values as allocations take them: per block, or per linear in the order of `weights`."""
        if not self.linears:
            return self.blocks
        # Experts that saw too few tokens have no value, and count as the mean.
        rows = zip(self.linears, self.blocks, weights, strict=True)
        return tuple(found.get(name, mean) for found, mean, block in rows for name in block)
