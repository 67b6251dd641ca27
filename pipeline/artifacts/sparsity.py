"""The documents beside keep tensors: zeros by linear, and the calibration tokens that each expert saw."""

from pipeline.canonical import Frozen


class LinearSparsity(Frozen):
    """Zeros achieved in one linear.

    `pruned`: number of weights that the method chose; `zeros` also counts weights that were zero before.
    `note`: a deviation of the method from what was asked.
    """

    block: int
    linear: str
    pruned: int
    zeros: int
    weights: int
    note: str | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of zeros."""
        return self.zeros / self.weights


class SparsityTable(Frozen):
    """Content of `sparsity.json`."""

    linears: tuple[LinearSparsity, ...]

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over all prunable weights."""
        return sum(linear.zeros for linear in self.linears) / sum(linear.weights for linear in self.linears)


class BlockExperts(Frozen):
    """The calibration tokens that were routed to each expert of a block, in the experts' order."""

    block: int
    tokens: tuple[int, ...]


class ExpertTable(Frozen):
    """Content of `experts.json`: all blocks with experts. Experts with fewer tokens than `minimum_tokens`
    were pruned without statistics (blocks/routing.py)."""

    minimum_tokens: int
    blocks: tuple[BlockExperts, ...]

    @property
    def note(self) -> str | None:
        """A warning about experts that were pruned without statistics; None if there are none."""
        every = [tokens for block in self.blocks for tokens in block.tokens]
        few = sum(tokens < self.minimum_tokens for tokens in every)
        if not few:
            return None
        return (
            f"{few} of {len(every)} experts saw fewer than {self.minimum_tokens} calibration tokens and were "
            f"pruned by their weights alone; use more samples"
        )
