"""What a worker knows of the loaded block: the statistics that all workers measured in it.

Each worker measures its own sequences, gets the shares of the others, and merges them by itself, so that all
of them know the same.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from pipeline.blocks.block import Measured
from pipeline.blocks.walk import Walk
from pipeline.tensor.statistics import InputShare, LinearStatistics, merge, to_cpu

Shares = Mapping[str, InputShare]  # by the number of the group, of one worker


class MeasuredWalk(Walk):
    """See the module's docstring, and Walk."""

    _shares: Shares
    _statistics: dict[int, LinearStatistics]  # by group, of all samples
    _totals: dict[int, Tensor]  # grams by group, of all samples

    def _prepare(self) -> None:
        super()._prepare()
        self._forget()

    def linear_groups(self) -> tuple[tuple[str, ...], ...]:
        """Returns the linears of the loaded block, grouped by the input, and so the statistic, that they
        share."""
        return self.work.groups

    def merge(self, others: Sequence[Shares]) -> None:
        """Makes the statistics of all samples from the shares of this worker and of all others."""
        for group, own in self._shares.items():
            self._statistics[int(group)] = merge([own, *(shares[group] for shares in others)])
        self._shares = {}

    def take_gram(self, gram_II: Tensor, group: int) -> None:
        """Takes Σ xᵀx over a group's inputs of all samples, which `choose` or `store_hessian` needs."""
        self._totals[group] = gram_II

    @property
    def statistics(self) -> list[LinearStatistics | None]:
        """The statistics of each group of the loaded block; None where nothing was measured."""
        return [self._statistics.get(group) for group in range(len(self.linear_groups()))]

    def _forget(self) -> None:
        self._shares, self._statistics, self._totals = {}, {}, {}

    def _sharing(self, groups: Iterable[int], shares: Sequence[InputShare]) -> Shares:
        """Returns what this worker has measured in some groups, for the others."""
        to_cpu(shares)
        self._shares = {str(group): share for group, share in zip(groups, shares, strict=True)}
        return self._shares

    def _known(self, earlier: Measured | None) -> Measured | None:
        """Returns the statistics of an earlier walk, or else those that this one measured, if there are
        any."""
        return earlier or (self.statistics if self._statistics else None)
