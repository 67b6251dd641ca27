"""The statistics of a linear's input that calibration can measure, by name. Specs name them without loading
torch."""

from typing import Literal

Statistic = Literal["input_norm", "input_mean", "hessian", "channel_score", "similarity"]
Needs = frozenset[Statistic]  # an empty one: no calibration
