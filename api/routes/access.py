"""Access to routes, by a key in the Authorization header or in the cookie of the web page.

`Needs()` asks for the role that follows from the method: viewer to read, submitter to change anything. app.py
gives every router that, `Needs("admin")`, or neither.
"""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from api.auth import KEY_MISSING, Caller, Role, may
from api.errors import ApiError
from api.routes.requests import ServicesDep
from api.service.keys import keys

COOKIE = "secateur_session"
READS = frozenset({"GET", "HEAD", "OPTIONS"})
NOBODY = Caller("anyone", "admin")  # the caller where the service needs no keys

_bearer = HTTPBearer(scheme_name="key", auto_error=False, description="An API key: `sec_...`.")
_cookie = APIKeyCookie(
    name=COOKIE, scheme_name="session", auto_error=False, description="The web page's; POST /session sets it."
)
Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
SessionCookie = Annotated[str | None, Security(_cookie)]


@dataclass(frozen=True)
class Needs:
    """Admits callers whose key has the role. Raises ApiError 401 without a valid key, else 403."""

    role: Role | None = None

    def __call__(
        self, request: Request, services: ServicesDep, bearer: Bearer, cookie: SessionCookie
    ) -> Caller:
        """Returns the caller, and stores it in `request.state.caller`."""
        caller = NOBODY
        if services.settings.auth == "keys":
            if bearer is None and cookie is not None and request.method not in READS:
                refuse_other_sites(request, services)
            key = bearer.credentials if bearer is not None else cookie
            if not key:
                raise ApiError(401, "key_missing", KEY_MISSING)
            caller = keys.check(services.database, key)
        request.state.caller = caller
        needed = self.role or ("viewer" if request.method in READS else "submitter")
        if not may(caller.role, needed):
            raise ApiError(
                403,
                "role_too_small",
                f"this needs the role {needed}; the key {caller.prefix}... ({caller.name}) has {caller.role}",
            )
        return caller


def check_by_hand(request: Request, services: ServicesDep) -> None:
    """Do what `Needs()` does, for a route that needs a key by a setting alone."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    bearer = HTTPAuthorizationCredentials(scheme=scheme, credentials=key) if scheme == "Bearer" else None
    Needs()(request, services, bearer, request.cookies.get(COOKIE))


def refuse_other_sites(request: Request, services: ServicesDep) -> None:
    """Raise ApiError 403 when a browser says that a page of another site sent the request.

    SameSite already keeps our cookie from other sites, but not from other ports and subdomains.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        good = site in ("same-origin", "none")
    else:  # browsers send Sec-Fetch-Site over https and on localhost only
        good = origin is None or origin == _origin(services.settings.public_url) or _is_ours(request, origin)
    if not good:
        raise ApiError(403, "other_site", f"a page of another site ({origin or site}) may not do this")


def _is_ours(request: Request, origin: str) -> bool:
    return origin != "null" and urlsplit(origin).netloc == request.headers.get("host")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _caller(request: Request) -> Caller:
    caller = request.state.caller
    assert isinstance(caller, Caller), "the router asks for a role"
    return caller


Who = Annotated[Caller, Depends(_caller)]
