"""The web page's session is a cookie that holds the key, so that nothing is stored and nothing expires."""

from fastapi import APIRouter, Request, Response
from pydantic import SecretStr

from api.routes.access import COOKIE, refuse_other_sites
from api.routes.answers import BODY, refusals
from api.routes.requests import ServicesDep
from api.service.keys import keys
from pipeline.canonical import Frozen

router = APIRouter(tags=["keys"])


class SessionRequest(Frozen):
    """The body of POST /session."""

    key: SecretStr


@router.post("/session", status_code=204, responses=BODY | refusals(401, 403))
def sign_in(services: ServicesDep, request: Request, response: Response, session: SessionRequest) -> None:
    """Store the key in a cookie that scripts cannot read, until the browser is closed."""
    refuse_other_sites(request, services)
    if services.settings.auth == "none":
        return
    key = session.key.get_secret_value()
    keys.check(services.database, key)
    response.set_cookie(
        COOKIE, key, path="/", httponly=True, samesite="strict", secure=_is_secure(request, services)
    )


@router.delete("/session", status_code=204, responses=refusals(403))
def sign_out(services: ServicesDep, request: Request, response: Response) -> None:
    """Delete the cookie."""
    refuse_other_sites(request, services)
    secure = _is_secure(request, services)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=secure)


def _is_secure(request: Request, services: ServicesDep) -> bool:
    return request.url.scheme == "https" or services.settings.public_url.startswith("https://")
