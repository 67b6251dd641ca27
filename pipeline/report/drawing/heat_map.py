"""Tables of blocks × linears whose cells are darker where their value is higher."""

import re
from collections.abc import Callable, Collection


def kind_of(linear: str) -> str:
    """A linear's name with its expert's number left out, as there may be hundreds."""
    return re.sub(r"(?<=experts\.)\d+(?=\.)", "*", linear)


def heat_of(values: Collection[float]) -> Callable[[float], float]:
    """Where a value lies between the lowest and the highest of all, in [0, 1]; 0.5 where all are equal."""
    low = min(values, default=0.0)
    span = max(values, default=0.0) - low
    return lambda value: round((value - low) / span, 3) if span > 0 else 0.5
