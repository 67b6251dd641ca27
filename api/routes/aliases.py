"""Aliases: names that point at published checkpoints."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.routes.answers import ABSENT, refusals
from api.routes.requests import ServicesDep
from api.service.schedules import aliases
from api.service.schedules.views import AliasList, AliasView

router = APIRouter(tags=["schedules"])


@router.get("/aliases", responses=refusals())
def list_aliases(services: ServicesDep) -> AliasList:
    """All aliases, by name."""
    return AliasList(data=tuple(aliases.alias_view(row) for row in aliases.list_all(services)))


@router.get("/aliases/{name}", responses=ABSENT)
def show_alias(
    services: ServicesDep,
    name: Annotated[str, Path(max_length=100, pattern=r"^[^\x00]*$", examples=["nightly"])],
) -> AliasView:
    """The checkpoint that a name points at now. Serving engines may read `aliases/<name>.json` in storage."""
    return aliases.alias_view(aliases.find(services, name))
