"""Criteria: how much channels, heads and experts matter. One file each; a new one is a file and a name in
this union."""

from typing import Annotated

from pydantic import Field

from pipeline.structure.activation import Activation
from pipeline.structure.explicit import Explicit
from pipeline.structure.magnitude import Magnitude
from pipeline.structure.random import Random

Criterion = Annotated[Random | Magnitude | Activation | Explicit, Field(discriminator="kind")]

__all__ = ["Activation", "Criterion", "Explicit", "Magnitude", "Random"]
