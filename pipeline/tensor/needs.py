"""The names of the statistics of a linear's input that calibration can measure. They are separate from the
code, so that specs can name them without loading torch."""

from typing import Literal

Statistic = Literal[
    "input_norm",
    "input_mean",
    "hessian",
    "channel_score",
    "similarity",
    "expert_gain",
    "expert_similarity",  # needs expert_gain too
]
Needs = frozenset[Statistic]  # an empty set needs no calibration
