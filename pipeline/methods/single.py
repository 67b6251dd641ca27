"""The union of methods that work alone. Composed methods and learned ones can take their masks."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.admm import Admm
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.ranking import Ranking
from pipeline.methods.sparsegpt import SparseGPT

Single = Annotated[Ranking | SparseGPT | Admm | Dsnot, Field(discriminator="kind")]
