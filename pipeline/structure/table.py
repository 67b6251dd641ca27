"""Sizes before and after, as reports and model cards show them."""

from collections.abc import Iterator

from pipeline.canonical import Frozen
from pipeline.structure.sizes import Sizes


class SizeTable(Frozen):
    """Content of `sizes.json`. `parameters`: stored weights, tied ones once."""

    dense: Sizes
    cut: Sizes
    dense_parameters: int
    cut_parameters: int
    blocks: tuple[int, ...]

    @property
    def rows(self) -> Iterator[tuple[str, int, int]]:
        """Name, before and after, of the sizes that have changed."""
        for name, before in self.dense:
            if before is not None and before != getattr(self.cut, name):
                yield name, before, getattr(self.cut, name)
        yield "parameters", self.dense_parameters, self.cut_parameters
