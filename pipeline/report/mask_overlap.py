"""What reports show of masks beside others: tables by kind of linear and by block."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.artifacts.mask_overlap import LinearAgreement, MaskAgreement
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.canonical import Frozen
from pipeline.spec.patterns import NM
from pipeline.spec.sparsity_plan import SparsityPlan


class AgreementRow(Frozen):
    """Linears of one name, or `all`: for each of the other masks the shares of groups with the same mask and
    of kept weights that both keep; None where it has no such linear."""

    name: str
    groups: tuple[float | None, ...]
    kept: tuple[float | None, ...]


def agreement_rows(
    agreements: Sequence[MaskAgreement], sparsity: SparsityTable | None
) -> tuple[AgreementRow, ...]:
    """A row for each kind of linear and one for all, in the order of the model; experts count as one kind.
    Linears weigh as many weights as they have, where `sparsity` knows them."""
    weights = {(one.block, one.linear): one.weights for one in (sparsity.linears if sparsity else ())}
    kinds = dict.fromkeys(kind_of(one.linear) for other in agreements for one in other.linears)
    rows = []
    for name in [*kinds, "all"]:
        chosen = [
            [one for one in other.linears if name in ("all", kind_of(one.linear))] for other in agreements
        ]
        rows.append(
            AgreementRow(
                name=name,
                groups=tuple(_mean(((one, one.groups) for one in some), weights) for some in chosen),
                kept=tuple(_mean(((one, one.kept) for one in some), weights) for some in chosen),
            )
        )
    return tuple(rows)


def equal_groups(agreements: Sequence[MaskAgreement], sparsity: SparsityTable | None) -> dict[str, float]:
    """Share of all groups with the same mask, by the name of the others."""
    shares = agreement_rows(agreements, sparsity)[-1].groups
    return {one.other: share for one, share in zip(agreements, shares, strict=True) if share is not None}


@dataclass(frozen=True)
class AgreementMap:
    """Groups with the same mask, blocks × kinds of linears. Cells are (share of groups, share of kept
    weights, heat); None where a block has no such linear. `heat`, in [0, 1], goes from the least to the most
    equal."""

    other: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[tuple[float, float, float] | None, ...]], ...]


@dataclass(frozen=True)
class AgreementPage:
    """`others`: names. `chance`: shares of groups and of kept weights between masks that have nothing in
    common, where all blocks have one N:M."""

    others: tuple[str, ...]
    rows: tuple[AgreementRow, ...]
    maps: tuple[AgreementMap, ...]
    chance: tuple[float, float] | None


def agreement_page(
    agreements: Sequence[MaskAgreement], plan: SparsityPlan | None, sparsity: SparsityTable | None
) -> AgreementPage | None:
    """None where there are no others."""
    if not agreements:
        return None
    patterns = set(plan.blocks) if plan is not None else set()
    alike = patterns.pop() if len(patterns) == 1 else None
    chance = None
    if isinstance(alike, NM):
        chance = 1 / math.comb(alike.group, alike.keep), alike.keep / alike.group
    return AgreementPage(
        others=tuple(one.other for one in agreements),
        rows=agreement_rows(agreements, sparsity),
        maps=tuple(map(agreement_map, agreements)),
        chance=chance,
    )


def agreement_map(agreement: MaskAgreement) -> AgreementMap:
    """Of all blocks; the experts of one count as their mean."""
    columns = tuple(dict.fromkeys(kind_of(one.linear) for one in agreement.linears))
    blocks = sorted({one.block for one in agreement.linears})
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for one in agreement.linears:
        found.setdefault((one.block, kind_of(one.linear)), []).append((one.groups, one.kept))
    means = {
        place: (sum(groups for groups, _ in some) / len(some), sum(kept for _, kept in some) / len(some))
        for place, some in found.items()
    }
    low = min((groups for groups, _ in means.values()), default=0.0)
    span = max((groups for groups, _ in means.values()), default=0.0) - low

    def cell(block: int, column: str) -> tuple[float, float, float] | None:
        if (block, column) not in means:
            return None
        groups, kept = means[block, column]
        return groups, kept, round((groups - low) / span, 3) if span > 0 else 0.5

    return AgreementMap(
        other=agreement.other,
        columns=columns,
        rows=tuple((block, tuple(cell(block, column) for column in columns)) for block in blocks),
    )


def kind_of(linear: str) -> str:
    """A linear's name with its expert's number left out, as there may be hundreds."""
    return re.sub(r"(?<=experts\.)\d+(?=\.)", "*", linear)


def _mean(
    values: Iterable[tuple[LinearAgreement, float]], weights: Mapping[tuple[int, str], int]
) -> float | None:
    found = [(value, weights.get((one.block, one.linear), 1)) for one, value in values]
    total = sum(weight for _, weight in found)
    return sum(value * weight for value, weight in found) / total if total else None
