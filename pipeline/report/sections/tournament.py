"""Allocations that were tried against each other, and which one won."""

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
        """The table from which the plan was chosen."""
        return {"tournament": inputs.find("tournament", TournamentTable)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Nothing where the spec names one allocation."""
        return None if report.tournament is None else {"parameters": _parameters}


def _parameters(allocation: Candidate) -> str:
    """All fields but the kind."""
    named = allocation.model_dump(mode="json", exclude={"kind"})
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in named.items()) or "–"
