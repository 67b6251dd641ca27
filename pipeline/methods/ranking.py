"""The union of methods that rank weights by a saliency; DSnoT can start from any of their masks."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ria import Ria
from pipeline.methods.wanda import Wanda

Ranking = Annotated[Magnitude | Wanda | Ria, Field(discriminator="kind")]
