"""The section with the overlap of masks: equal groups and common kept weights, by linear and by block."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from pipeline.artifacts.mask_overlap import LinearOverlap, MaskOverlap, MaskOverlaps
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import Frozen
from pipeline.report.drawing.heat_map import heat_of, kind_of
from pipeline.report.inputs import Inputs
from pipeline.report.section import Headline, ModelSection
from pipeline.spec.patterns import NM
from pipeline.spec.sparsity_plan import SparsityPlan


class MaskOverlapHeadline(Headline):
    """The overlap in one figure. `agreement`: name of other masks → share of groups with the same mask."""

    agreement: dict[str, float] = Field(default_factory=dict)


class MaskOverlapSection(ModelSection):
    """The overlap with each of the other masks."""

    agreements: tuple[MaskOverlap, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the overlaps that the comparison stored."""
        beside = inputs.find("agreements", MaskOverlaps)
        return {"agreements": () if beside is None else beside.agreements}

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The overlap over all linears."""
        return MaskOverlapHeadline(agreement=equal_groups(report.agreements, report.sparsity))

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The tables. `others`: names of the other masks. `chance`: shares of groups and of kept weights that
        random masks would have in common, where all blocks have one N:M pattern."""
        if not report.agreements:
            return None
        return {
            "others": [one.other for one in report.agreements],
            "rows": overlap_rows(report.agreements, report.sparsity),
            "maps": [overlap_map(one) for one in report.agreements],
            "chance": _by_chance(report.plan),
        }


class OverlapRow(Frozen):
    """The overlap in linears of one name, or in `all`. Each of the other masks has its share of groups with
    the same mask and of kept weights that both keep; None where it has no such linear."""

    name: str
    groups: tuple[float | None, ...]
    kept: tuple[float | None, ...]


def overlap_rows(agreements: Sequence[MaskOverlap], sparsity: SparsityTable | None) -> tuple[OverlapRow, ...]:
    """A row for each kind of linear and one for all, in the order of the model; experts count as one kind.
    Means over linears are weighted by their numbers of weights, where `sparsity` knows them."""
    weights = {(one.block, one.linear): one.weights for one in (sparsity.linears if sparsity else ())}
    kinds = dict.fromkeys(kind_of(one.linear) for other in agreements for one in other.linears)
    rows = []
    for name in [*kinds, "all"]:
        chosen = [
            [one for one in other.linears if name in ("all", kind_of(one.linear))] for other in agreements
        ]
        rows.append(
            OverlapRow(
                name=name,
                groups=tuple(_mean(((one, one.groups) for one in some), weights) for some in chosen),
                kept=tuple(_mean(((one, one.kept) for one in some), weights) for some in chosen),
            )
        )
    return tuple(rows)


def equal_groups(agreements: Sequence[MaskOverlap], sparsity: SparsityTable | None) -> dict[str, float]:
    """The share of all groups with the same mask, by the name of the other masks."""
    shares = overlap_rows(agreements, sparsity)[-1].groups
    return {one.other: share for one, share in zip(agreements, shares, strict=True) if share is not None}


@dataclass(frozen=True)
class OverlapMap:
    """A table of the overlap, blocks × kinds of linears. Cells are (share of groups, share of kept weights,
    heat); None where a block has no such linear. `heat`, in [0, 1], goes from the lowest to the highest share
    of groups."""

    other: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[tuple[float, float, float] | None, ...]], ...]


def overlap_map(agreement: MaskOverlap) -> OverlapMap:
    """The table of all blocks, in which the experts of a block have their mean."""
    columns = tuple(dict.fromkeys(kind_of(one.linear) for one in agreement.linears))
    blocks = sorted({one.block for one in agreement.linears})
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for one in agreement.linears:
        found.setdefault((one.block, kind_of(one.linear)), []).append((one.groups, one.kept))
    means = {
        place: (sum(groups for groups, _ in some) / len(some), sum(kept for _, kept in some) / len(some))
        for place, some in found.items()
    }
    heat = heat_of([groups for groups, _ in means.values()])

    def cell(block: int, column: str) -> tuple[float, float, float] | None:
        if (block, column) not in means:
            return None
        groups, kept = means[block, column]
        return groups, kept, heat(groups)

    return OverlapMap(
        other=agreement.other,
        columns=columns,
        rows=tuple((block, tuple(cell(block, column) for column in columns)) for block in blocks),
    )


def _by_chance(plan: SparsityPlan | None) -> tuple[float, float] | None:
    patterns = set(plan.blocks) if plan is not None else set()
    alike = patterns.pop() if len(patterns) == 1 else None
    if not isinstance(alike, NM):
        return None
    return 1 / math.comb(alike.group, alike.keep), alike.keep / alike.group


def _mean(
    values: Iterable[tuple[LinearOverlap, float]], weights: Mapping[tuple[int, str], int]
) -> float | None:
    found = [(value, weights.get((one.block, one.linear), 1)) for one, value in values]
    total = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / total if total else None
