"""The sizes before and after, as reports and model cards show them."""

from collections.abc import Iterator, Sequence

from pipeline.canonical import Frozen
from pipeline.structure.sizes import Sizes


class SizeTable(Frozen):
    """The content of `sizes.json`. `parameters`: stored weights, tied ones once."""

    dense: Sizes
    cut: Sizes
    dense_parameters: int
    cut_parameters: int
    blocks: tuple[int, ...]

    @property
    def rows(self) -> Iterator[tuple[str, int, int]]:
        """The name, old value and new value of each size that has changed."""
        for name, before in self.dense:
            if before is not None and before != getattr(self.cut, name):
                yield name, before, getattr(self.cut, name)
        yield "parameters", self.dense_parameters, self.cut_parameters


def sizes_through(tables: Sequence[SizeTable | None]) -> SizeTable | None:
    """Combines consecutive cuts into one table, without those that are None; returns None if there are
    none."""
    made = [table for table in tables if table is not None]
    if not made:
        return None
    first, last = made[0], made[-1]
    return last.model_copy(update={"dense": first.dense, "dense_parameters": first.dense_parameters})
