"""The section with the allocations of a tournament and its winner."""

import json
from collections.abc import Mapping
from typing import Self

from pipeline.allocations import Candidate
from pipeline.allocations.tournament import TournamentTable
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class TournamentSection(ModelSection):
    """Every entrant with its perplexity on held-out samples."""

    tournament: TournamentTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the table from which the plan was chosen."""
        return {"tournament": inputs.find("tournament", TournamentTable)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The parameters of entrants in words; None where the spec names one allocation."""
        return None if report.tournament is None else {"parameters": _parameters}


def _parameters(allocation: Candidate) -> str:
    """All fields of an allocation in words, without its kind."""
    named = allocation.model_dump(mode="json", exclude={"kind"})
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in named.items()) or "–"
