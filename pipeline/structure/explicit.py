"""What stays, named one by one."""

from typing import Literal

from pipeline.canonical import Frozen
from pipeline.structure.cut import Cut


class Explicit(Frozen):
    """`cut`: as `cut.json` of another job has it. Sizes and blocks follow from it."""

    kind: Literal["explicit"]
    cut: Cut

    @property
    def needs_samples(self) -> bool:
        """Never."""
        return False
