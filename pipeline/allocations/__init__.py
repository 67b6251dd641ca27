"""Allocations decide how sparse each block becomes. Each is one file; a new one is a file and a name in one
union: `Candidate` (candidates.py) has those that make a plan, `Contest` those that choose among these."""

from typing import Annotated

from pydantic import Field

from pipeline.allocations.alpha_pruning import AlphaPruning
from pipeline.allocations.atp import Atp
from pipeline.allocations.candidates import Candidate
from pipeline.allocations.dlp import Dlp
from pipeline.allocations.explicit import Explicit
from pipeline.allocations.owl import Owl
from pipeline.allocations.tournament import Tournament
from pipeline.allocations.uniform import Uniform

__all__ = [
    "Allocation",
    "AlphaPruning",
    "Atp",
    "Candidate",
    "Contest",
    "Dlp",
    "Explicit",
    "Owl",
    "Tournament",
    "Uniform",
]

Contest = Tournament
Allocation = Annotated[Candidate | Contest, Field(discriminator="kind")]
