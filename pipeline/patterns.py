"""Patterns: which weights compete for being kept, and how many of them are.

`Unstructured` asks for a fraction of zeros; `NM` keeps `keep` of every `group` consecutive input weights
of a row. N counts weights **kept**; code that counts zeros calls 2:4 and 3:8 the other way round.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen

ComparisonGroup = Literal["row", "matrix"]


class Unstructured(Frozen):
    """Zeros anywhere.

    `comparison_group`: saliencies compete within an output row or the whole matrix; left out, the
    method's own (Wanda: row, magnitude: matrix).
    `rounding`: `exact` gives every matrix round(O·I·s) zeros (the remainder of the rows goes to the rows
    with the next smallest saliencies); `floor` reproduces the published code: int(I·s) per row, and
    everything up to and including the int(O·I·s)-th smallest of a matrix.
    """

    kind: Literal["unstructured"] = "unstructured"
    sparsity: float = Field(ge=0, lt=1, description="Fraction of zeros over all prunable weights.")
    comparison_group: ComparisonGroup | None = None
    rounding: Literal["exact", "floor"] = "exact"

    @property
    def target(self) -> float:
        """Sparsity asked for, in [0, 1)."""
        return self.sparsity


class NM(Frozen):
    """N:M sparsity: `keep` of every `group` consecutive input weights are kept. Ties prune the lowest index."""

    kind: Literal["nm"] = "nm"
    keep: int = Field(ge=1)
    group: int = Field(ge=2, le=64)
    rounding: Literal["exact", "floor"] = "exact"

    @model_validator(mode="after")
    def _keep_below_group(self) -> "NM":
        if self.keep >= self.group:
            raise ValueError(
                f"NM({self.keep},{self.group}) prunes nothing: keep must be below group; "
                f"keep counts the weights that stay, NM({self.group // 2},{self.group}) is half of them"
            )
        return self

    @property
    def target(self) -> float:
        """Sparsity asked for, in (0, 1)."""
        return 1 - self.keep / self.group


Pattern = Annotated[Unstructured | NM, Field(discriminator="kind")]
