"""Tables of blocks × linears whose cells are darker where their value is higher."""

import re
from collections.abc import Callable, Collection


def kind_of(linear: str) -> str:
    """The name of a linear without its expert's number, because there may be hundreds of experts."""
    return re.sub(r"(?<=experts\.)\d+(?=\.)", "*", linear)


def heat_of(values: Collection[float]) -> Callable[[float], float]:
    """Return a function that maps the range of the values to [0, 1]; it gives 0.5 where all are equal."""
    low = min(values, default=0.0)
    span = max(values, default=0.0) - low
    return lambda value: round((value - low) / span, 3) if span > 0 else 0.5
