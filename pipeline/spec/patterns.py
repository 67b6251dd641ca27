"""Patterns say which weights compete, and how many of them are kept.

`Unstructured` asks for a fraction of zeros; `NM` keeps `keep` of every `group` consecutive input weights
of a row. N counts weights **kept**. Code that counts zeros writes 3:8 the other way round, and can use
`nm_zeros`.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec

ComparisonGroup = Literal["row", "matrix", "column_block"]
MAX_GROUP = 64


class Unstructured(Frozen):
    """An unstructured pattern: zeros may be anywhere.

    `comparison_group`: saliencies compete within an output row, the whole matrix, or a block of
    `column_block_size` consecutive inputs of all rows. The default is the method's own (Wanda: row,
    magnitude: matrix, SparseGPT: column_block).
    `rounding`: `exact` gives every matrix round(O·I·s) zeros (if rows are compared, each gets int(I·s), and
    the remainder goes to the rows with the next smallest saliencies). `floor` reproduces the published code:
    each row gets int(I·s) zeros; within a matrix, everything up to and including the saliency at position
    int(O·I·s) is pruned. With both, a sparsity of 0 prunes nothing.
    """

    kind: Literal["unstructured"] = "unstructured"
    sparsity: float = Field(ge=0, lt=1, description="Fraction of zeros over all prunable weights.")
    comparison_group: ComparisonGroup | None = None
    column_block_size: int = Field(default=128, ge=1)
    rounding: Literal["exact", "floor"] = "exact"

    @property
    def target(self) -> float:
        """The sparsity that the pattern asks for, in [0, 1)."""
        return self.sparsity


class NM(Frozen):
    """N:M sparsity keeps `keep` of every `group` consecutive input weights. Ties prune the lowest index.

    `rounding` matters to allocations that give blocks different `keep`: `exact` meets the asked sparsity on
    average over the blocks, `floor` rounds each block for itself, as the published code does.
    """

    kind: Literal["nm"] = "nm"
    keep: int = Field(ge=1)
    group: int = Field(ge=2, le=MAX_GROUP)
    rounding: Literal["exact", "floor"] = "exact"

    @model_validator(mode="after")
    def _keep_below_group(self) -> "NM":
        if self.keep >= self.group:
            raise ValueError(
                f"NM({self.keep},{self.group}) prunes nothing: keep counts the weights that stay and must be "
                f"below group, 1 to {self.group - 1}"
            )
        return self

    @property
    def target(self) -> float:
        """The sparsity that the pattern asks for, in (0, 1)."""
        return 1 - self.keep / self.group

    def check_in_features(self, in_features: int, *, linear: str = "a linear") -> None:
        """Raise InvalidSpec when the rows of a linear do not fall into whole groups."""
        if in_features % self.group == 0:
            return
        whole = [str(group) for group in range(2, MAX_GROUP + 1) if in_features % group == 0]
        advice = f"use a group of {', '.join(whole)}" if whole else "use pattern kind unstructured"
        raise InvalidSpec(
            f"NM({self.keep},{self.group}) needs in_features divisible by {self.group}, "
            f"{linear} has {in_features}; {advice}",
            "spec.prune.pattern.group",
        )


class NMZeros(Frozen):
    """N:M as code that counts zeros writes it: `zeros` of every `group` consecutive input weights are pruned.
    It becomes an NM when it is read."""

    kind: Literal["nm_zeros"] = "nm_zeros"
    zeros: int = Field(ge=1)
    group: int = Field(ge=2, le=MAX_GROUP)
    rounding: Literal["exact", "floor"] = "exact"


Pattern = Annotated[Unstructured | NM, Field(discriminator="kind")]


def _counting_kept(value: object) -> object:
    if not isinstance(value, dict) or value.get("kind") != "nm_zeros":
        return value
    zeros, group = value.get("zeros"), value.get("group")
    if not isinstance(zeros, int) or not isinstance(group, int) or not 1 <= zeros < group:
        raise ValueError(f"nm_zeros prunes zeros of group weights, 1 to group - 1; got {zeros} of {group}")
    rest = {name: field for name, field in value.items() if name not in ("kind", "zeros")}
    return {**rest, "kind": "nm", "keep": group - zeros}


AskedPattern = Annotated[
    Pattern,
    BeforeValidator(
        _counting_kept,
        json_schema_input_type=Annotated[Unstructured | NM | NMZeros, Field(discriminator="kind")],
    ),
]
