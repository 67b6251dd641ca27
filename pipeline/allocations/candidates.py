"""The union of allocations that make a plan. A new one is a file and a name in this union."""

from typing import Annotated

from pydantic import Field

from pipeline.allocations.alpha_pruning import AlphaPruning
from pipeline.allocations.atp import Atp
from pipeline.allocations.dlp import Dlp
from pipeline.allocations.explicit import Explicit
from pipeline.allocations.owl import Owl
from pipeline.allocations.uniform import Uniform

Candidate = Annotated[Uniform | Owl | Atp | AlphaPruning | Dlp | Explicit, Field(discriminator="kind")]
