"""What a worker knows of the loaded block: the statistics that all workers measured in it.

Each worker measures its own sequences, gets the shares of the others, and merges them by itself, so that all
of them know the same.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from pipeline.blocks.block import Measured
from pipeline.blocks.gains import count_experts
from pipeline.blocks.walk import Walk
from pipeline.tensor.gains import ExpertGains, GainShare, merge_gains
from pipeline.tensor.needs import Needs
from pipeline.tensor.statistics import InputShare, LinearStatistics, merge, to_cpu

Shares = Mapping[str, InputShare]  # by the number of the group, of one worker


class MeasuredWalk(Walk):
    """See the module's docstring, and Walk."""

    _shares: Shares
    _statistics: dict[int, LinearStatistics]  # by group, of all samples
    _totals: dict[int, Tensor]  # grams by group, of all samples
    _gain_share: GainShare | None  # of this worker; None without experts, or where it is not asked for
    _gains: ExpertGains | None  # of all samples

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

    def gains(self) -> Mapping[str, GainShare]:
        """Returns what this worker has measured of the block's experts, if there are any."""
        return {} if self._gain_share is None else {"experts": self._gain_share}

    def merge_gains(self, others: Sequence[Mapping[str, GainShare]]) -> None:
        """Makes the sums of all samples from this worker's and those of all others."""
        shares = [share for one in (self.gains(), *others) for share in one.values()]
        self._gains, self._gain_share = (merge_gains(shares) if shares else None), None

    def take_gram(self, gram_II: Tensor, group: int) -> None:
        """Takes Σ xᵀx over a group's inputs of all samples, which `choose` or `store_hessian` needs."""
        self._totals[group] = gram_II

    @property
    def statistics(self) -> list[LinearStatistics | None]:
        """The statistics of each group of the loaded block; None where nothing was measured."""
        return [self._statistics.get(group) for group in range(len(self.linear_groups()))]

    def _forget(self) -> None:
        self._shares, self._statistics, self._totals = {}, {}, {}
        self._gain_share = self._gains = None

    def _sharing(self, groups: Iterable[int], shares: Sequence[InputShare]) -> Shares:
        """Returns what this worker has measured in some groups, for the others."""
        to_cpu(shares)
        self._shares = {str(group): share for group, share in zip(groups, shares, strict=True)}
        return self._shares

    def _gains_to_measure(self, needs: Needs) -> GainShare | None:
        """Returns an empty share for what the experts of the loaded block give, if that is asked for."""
        experts = count_experts(self._loaded(), self._stream.row) if "expert_gain" in needs else 0
        if not experts:
            return None
        return GainShare.empty(
            experts,
            sequences=len(self._hidden),
            samples=self._samples,
            first=self._first,
            products="expert_similarity" in needs,
            device=self._device,
        )

    def _known(self, earlier: Measured | None) -> Measured | None:
        """Returns the statistics of an earlier walk, or else those that this one measured, if there are
        any."""
        return earlier or (self.statistics if self._statistics else None)
