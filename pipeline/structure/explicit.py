"""The parts that stay, named one by one."""

from typing import Literal

from pipeline.canonical import Frozen
from pipeline.structure.cut import Cut


class Explicit(Frozen):
    """`cut`: the content of another job's `cut.json`. Sizes and blocks follow from it."""

    kind: Literal["explicit"]
    cut: Cut

    @property
    def needs_samples(self) -> bool:
        """Always false."""
        return False
