"""The difference between two models that were measured on the same documents or windows."""

from typing import Literal

from pipeline.canonical import Frozen

Level = Literal[90, 95, 99]
LEVELS: tuple[Level, ...] = (90, 95, 99)


class OneSided(Frozen):
    """With a confidence of `level` percent the difference is not below `lower`; with the same confidence,
    taken by itself, it is not above `upper`."""

    level: Level
    lower: float
    upper: float


class PairedDifference(Frozen):
    """A difference of two figures, later minus earlier, in their own unit, and how certain it is.

    `low` to `high`: the 95 % interval of a paired bootstrap (BCa) over `units`, which are documents of a task
    or windows of a text. `p_value`: two-sided, of the hypothesis that the models do not differ; `test`: the
    exact McNemar test where each document is right or wrong, else a sign-flip test.
    """

    value: float
    low: float
    high: float
    units: int
    p_value: float
    test: Literal["mcnemar", "sign_flip"]
    one_sided: tuple[OneSided, ...]

    @property
    def stands_out(self) -> bool:
        """True if the 95 % interval does not hold zero."""
        return self.low > 0 or self.high < 0

    def at(self, level: Level) -> OneSided:
        """The one-sided bounds of a confidence. Raises KeyError for one that was not computed."""
        for bounds in self.one_sided:
            if bounds.level == level:
                return bounds
        raise KeyError(f"no bounds at {level} %; there are {[bounds.level for bounds in self.one_sided]}")
