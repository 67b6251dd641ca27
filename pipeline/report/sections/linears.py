"""The section with the sparsity of every linear, as a table in which sparser ones are darker."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.artifacts.sparsity import LinearSparsity, SparsityTable
from pipeline.report.drawing.heat_map import heat_of, kind_of
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection

NAMED = 5  # the number of linears that one remark names


class LinearsSection(ModelSection):
    """The table of linears. Fills `sparsity`."""

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the zeros of the final model. Training counts them anew; notes come from pruning's table."""
        final = inputs.find("keep", SparsityTable)
        pruned = inputs.find("pruned_keep", SparsityTable)
        return {"sparsity": final if final is None or pruned is None else _with_notes(final, pruned)}

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """The deviations of the method, each with the linears that have it."""
        places: dict[str, list[str]] = {}
        for linear in report.sparsity.linears if report.sparsity is not None else ():
            if linear.note is not None:
                places.setdefault(linear.note, []).append(f"block {linear.block} {linear.linear}")
        for note, found in places.items():
            more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
            yield f"{note} ({', '.join(found[:NAMED])}{more})"

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The table; None where there are no zeros."""
        return None if report.sparsity is None else {"heatmap": heatmap(report.sparsity)}


@dataclass(frozen=True)
class HeatCell:
    """One linear of one block. `heat`: in [0, 1], from the least to the most sparse linear of the model."""

    linear: LinearSparsity
    heat: float


@dataclass(frozen=True)
class Heatmap:
    """A table of blocks × linears. A cell is None where a block has no such linear. `totals`: sparsity per
    column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[HeatCell | None, ...]], ...]
    totals: tuple[float, ...]


def heatmap(table: SparsityTable) -> Heatmap:
    """The table of linears in block order, with columns in order of first appearance. The experts of a block
    are summed up, because there may be hundreds."""
    table = _experts_together(table)
    columns = tuple(dict.fromkeys(linear.linear for linear in table.linears))
    by_place = {(linear.block, linear.linear): linear for linear in table.linears}
    heat = heat_of([linear.sparsity for linear in table.linears])

    def cell(block: int, column: str) -> HeatCell | None:
        linear = by_place.get((block, column))
        return None if linear is None else HeatCell(linear, heat(linear.sparsity))

    blocks = sorted({linear.block for linear in table.linears})
    return Heatmap(
        columns=columns,
        rows=tuple((block, tuple(cell(block, column) for column in columns)) for block in blocks),
        totals=tuple(_column_sparsity(table, column) for column in columns),
    )


def _with_notes(final: SparsityTable, pruned: SparsityTable) -> SparsityTable:
    notes = {(one.block, one.linear): one.note for one in pruned.linears}
    return SparsityTable(
        linears=tuple(
            one.model_copy(update={"note": notes.get((one.block, one.linear))}) for one in final.linears
        )
    )


def _experts_together(table: SparsityTable) -> SparsityTable:
    parts: dict[tuple[int, str], list[LinearSparsity]] = {}
    for linear in table.linears:
        parts.setdefault((linear.block, kind_of(linear.linear)), []).append(linear)
    return SparsityTable(
        linears=tuple(
            LinearSparsity(
                block=block,
                linear=name,
                pruned=sum(one.pruned for one in found),
                zeros=sum(one.zeros for one in found),
                weights=sum(one.weights for one in found),
            )
            for (block, name), found in parts.items()
        )
    )


def _column_sparsity(table: SparsityTable, column: str) -> float:
    return SparsityTable(linears=tuple(x for x in table.linears if x.linear == column)).sparsity
