"""Criteria score the importance of channels, heads and experts. Each is one file and one name in this
union."""

from typing import Annotated

from pydantic import Field

from pipeline.structure.activation import Activation
from pipeline.structure.explicit import Explicit
from pipeline.structure.magnitude import Magnitude
from pipeline.structure.random import Random

Criterion = Annotated[Random | Magnitude | Activation | Explicit, Field(discriminator="kind")]

__all__ = ["Activation", "Criterion", "Explicit", "Magnitude", "Random"]
