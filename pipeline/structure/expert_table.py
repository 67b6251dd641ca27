"""What the experts of a model give, and what became of them, as reports show it."""

from collections.abc import Sequence
from typing import Self

from pipeline.canonical import Frozen
from pipeline.structure.cut import Cut
from pipeline.structure.expert_facts import ExpertFacts


class BlockGains(Frozen):
    """The experts of one block of the dense model, in their order. `tokens`: how many calibration tokens each
    got; `gains`: the mean over them of gate weight times output norm. `kept`: the numbers of those that stay;
    `merged`: see BlockCut."""

    block: int
    tokens: tuple[int, ...]
    gains: tuple[float, ...]
    kept: tuple[int, ...]
    merged: dict[int, dict[int, float]]

    @property
    def tokens_kept(self) -> float:
        """The share of routed tokens that experts got which stay."""
        return _share(self.tokens, self.kept)

    @property
    def gains_kept(self) -> float:
        """The share of gate weight times output norm, summed over tokens, that experts gave which stay."""
        sums = [gain * tokens for gain, tokens in zip(self.gains, self.tokens, strict=True)]
        return _share(sums, self.kept)

    def fate(self, expert: int) -> str:
        """Returns what became of an expert, in words."""
        if expert in self.kept:
            others = [one for one in self.merged.get(expert, {}) if one != expert]
            return f"stays, with {', '.join(map(str, others))}" if others else "stays"
        into = next((kept for kept, weights in self.merged.items() if expert in weights), None)
        return "dropped" if into is None else f"{self.merged[into][expert]:.2f} of {into}"


class ExpertGainTable(Frozen):
    """Content of `expert_gains.json`: all blocks that stay and have experts."""

    blocks: tuple[BlockGains, ...]

    @classmethod
    def of(cls, cut: Cut, facts: Sequence[ExpertFacts | None]) -> Self:
        """Returns the table of a cut. `facts`: by block of the dense model."""
        rows = []
        for block in cut.blocks:
            known = facts[block.block]
            if known is None:
                continue
            every = range(len(known.tokens_E))
            rows.append(
                BlockGains(
                    block=block.block,
                    tokens=tuple(int(one) for one in known.tokens_E),
                    gains=tuple(float(one) for one in known.saliency),
                    kept=tuple(every) if block.experts is None else block.experts,
                    merged=block.merged,
                )
            )
        return cls(blocks=tuple(rows))


def _share(values: Sequence[float], kept: Sequence[int]) -> float:
    total = sum(values)
    return sum(values[one] for one in kept) / total if total else 0.0
