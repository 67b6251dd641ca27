"""The routes for API keys: admins manage them, and everybody may ask about their own."""

import logging
from typing import Annotated

from fastapi import APIRouter, Path

from api.routes.access import Who
from api.routes.answers import BODY, CONFLICT, refusals
from api.routes.requests import ServicesDep
from api.service.keys import keys
from api.service.keys.views import CallerView, KeyList, KeyRequest, KeyView, NewKeyView

log = logging.getLogger(__name__)
router = APIRouter(tags=["keys"])
own = APIRouter(tags=["keys"])


@router.post("/keys", status_code=201, responses=BODY)
def create_key(services: ServicesDep, who: Who, request: KeyRequest) -> NewKeyView:
    """Make a key. Only this answer shows it."""
    made = keys.create(services.database, request)
    log.info("%s (%s) made the %s key %s", who.prefix, who.name, made.role, made.prefix)
    return made


@router.get("/keys", responses=refusals())
def list_keys(services: ServicesDep) -> KeyList:
    """All keys, newest first, without their secrets."""
    return KeyList(data=keys.list_all(services.database))


@router.post("/keys/{id}/revoke", responses=CONFLICT)
def revoke_key(
    services: ServicesDep,
    who: Who,
    id: Annotated[str, Path(description="Id of a key.", examples=["key-0cs4b3vmf0hd8jms4t2q"])],  # noqa: A002
) -> KeyView:
    """Revoke a key, for good and at once. The last admin key cannot be revoked."""
    revoked = keys.revoke(services.database, id)
    log.info("%s (%s) revoked %s", who.prefix, who.name, revoked.prefix)
    return revoked


@own.get("/keys/me", responses=refusals())
def who_am_i(who: Who) -> CallerView:
    """The name and the role of the caller's key."""
    return CallerView(name=who.name, role=who.role, prefix=who.prefix)
