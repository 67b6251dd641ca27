"""Rules for the blocks that stay."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec


class _Counted(Frozen):
    """`num_blocks` of the blocks stay."""

    num_blocks: Annotated[int, Field(ge=1, description="The number of blocks that stay.")]

    def counted(self, of: int) -> int:
        """Returns the number of blocks that stay, of a model with `of` blocks. Raises InvalidSpec when it has
        fewer."""
        if self.num_blocks > of:
            raise InvalidSpec(
                f"structure.drop_blocks.num_blocks={self.num_blocks}: the model has {of} blocks; at most "
                f"{of} can stay",
                "spec.structure.drop_blocks.num_blocks",
            )
        return self.num_blocks


class DropExplicit(Frozen):
    """`blocks`: the numbers, from 0, of the blocks that are dropped."""

    kind: Literal["explicit"]
    blocks: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)

    @property
    def needs_samples(self) -> bool:
        """Tells whether the rule needs activations."""
        return False

    def counted(self, of: int) -> int:
        """Returns the number of blocks that stay."""
        return len(self.kept(of, ()))

    def kept(self, of: int, influences: Sequence[float]) -> tuple[int, ...]:
        """Returns the blocks that stay of a model with `of` blocks. `influences`: one per block, if the rule
        needs samples."""
        gone = set(self.blocks)
        if max(gone) >= of or len(gone) == of:
            raise InvalidSpec(
                f"structure.drop_blocks.blocks={sorted(gone)}: the model has blocks 0 to {of - 1}, and one "
                f"must stay",
                "spec.structure.drop_blocks.blocks",
            )
        return tuple(block for block in range(of) if block not in gone)


class DropSpaced(_Counted):
    """Blocks are dropped at even distances, none of them at either end (Pruning-LLMs: of 12 blocks 4 and
    7)."""

    kind: Literal["spaced"]

    @property
    def needs_samples(self) -> bool:
        """Tells whether the rule needs activations."""
        return False

    def kept(self, of: int, influences: Sequence[float]) -> tuple[int, ...]:
        """Returns the blocks that stay of a model with `of` blocks. `influences`: one per block, if the rule
        needs samples."""
        goes = of - self.counted(of)
        gone: list[int] = []
        for i in range(1, goes + 1):
            place = (2 * i * (of - 1) + goes + 1) // (2 * (goes + 1))  # i (of - 1) / (goes + 1), rounded
            gone.append(max(place, gone[-1] + 1 if gone else 0))
        return tuple(block for block in range(of) if block not in gone)


class DropByInfluence(_Counted):
    """The blocks whose output is most similar to their input are dropped: the smallest 1 - E[cos(X,
    block(X))] over the tokens of the calibration samples (ShortGPT, arXiv 2403.03853)."""

    kind: Literal["block_influence"]

    @property
    def needs_samples(self) -> bool:
        """Tells whether the rule needs activations."""
        return True

    def kept(self, of: int, influences: Sequence[float]) -> tuple[int, ...]:
        """Returns the blocks that stay of a model with `of` blocks. `influences`: one per block, if the rule
        needs samples."""
        ranked = sorted(range(of), key=lambda block: (-influences[block], block))
        return tuple(sorted(ranked[: self.counted(of)]))


DropBlocks = Annotated[DropExplicit | DropSpaced | DropByInfluence, Field(discriminator="kind")]
