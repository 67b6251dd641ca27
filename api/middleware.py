"""Middleware around every request: its id in logs, metrics, a limit on its size, the answer to a crash."""

import logging
import re
import secrets
import time
from collections.abc import Callable
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import errors
from api.auth import KEY_MISSING
from api.metrics import Metrics

log = logging.getLogger("api.access")
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_VALUES = 50_000  # of a body, as its commas count them; checking them takes half a second at worst
DRIVER_SHARE = 16  # drivers may send bodies this many times as large, because events carry file lists
SECRET_PATHS = ("/keys", "/session")
SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """Gives the request an id (or keeps the caller's), logs and measures it, and answers 500 to a crash.
    Browsers are told not to guess types of content, and nobody to keep answers that show secrets."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if SANE_ID.fullmatch(given) else secrets.token_hex(8)
        REQUEST_ID.set(request_id)
        started = time.monotonic()
        status = 0

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                if scope["path"].startswith(SECRET_PATHS):
                    headers["Cache-Control"] = "no-store"
                self._note(scope, status, time.monotonic() - started)
            await send(message)

        try:
            await self._app(scope, receive, answered)
        except Exception:
            log.exception("%s %s broke", scope["method"], _path(scope))
            if status:
                raise  # half an answer is out: end the connection
            await errors.unexpected()(scope, receive, answered)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.request(method=method, route=route, status=status, seconds=seconds)
        level = logging.DEBUG if route.startswith(("/internal", "/healthz", "/metrics")) else logging.INFO
        caller = scope.get("state", {}).get("caller")
        who = f" {caller.prefix}" if caller is not None and caller.prefix else ""
        log.log(level, "%s %s %d %.0f ms%s", scope["method"], _path(scope), status, seconds * 1000, who)


def _path(scope: Scope) -> str:
    """The path as it was sent: its escapes keep line feeds out of the log."""
    raw = scope.get("raw_path")
    return raw.decode("ascii", "backslashreplace") if isinstance(raw, bytes) else repr(scope["path"])


class BodyLimit:
    """Refuses a body over the limit while it arrives, whatever Content-Length says, and one with so many
    values that to check them, and to list what is wrong with each, would keep the service busy. One from
    nobody, without key and cookie, is not read at all.

    `closed`: tells whether a path needs a key.
    """

    def __init__(self, app: ASGIApp, limit: int, closed: Callable[[str], bool]) -> None:
        self._app = app
        self._limit = limit
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from_driver = scope["path"].startswith("/internal/")
        limit = self._limit * (DRIVER_SHARE if from_driver else 1)
        most = None if from_driver else MAX_VALUES
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        has_body = declared not in ("", "0") or "transfer-encoding" in headers
        from_nobody = "authorization" not in headers and "cookie" not in headers
        if has_body and from_nobody and self._closed(scope["path"]):
            await _nobody()(scope, receive, send)
            return
        if declared.isdigit() and int(declared[:20]) > limit:
            await _too_large(limit)(scope, receive, send)
            return
        got = values = 0
        begun = False

        async def counted() -> Message:
            nonlocal got, values
            message = await receive()
            body = message.get("body", b"")
            got += len(body)
            values += body.count(b",")
            if got > limit:
                raise _TooLarge(_too_large(limit))
            if most is not None and values > most:
                raise _TooLarge(_too_many(most))
            return message

        async def noticed(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, counted, noticed)
        except _TooLarge as refused:
            if begun:
                raise
            await refused.answer(scope, receive, send)


class _TooLarge(BaseException):
    """Passes every `except Exception` between the reader of the body and the limit."""

    def __init__(self, answer: ASGIApp) -> None:
        super().__init__()
        self.answer = answer


def _nobody() -> ASGIApp:
    headers = {"Connection": "close", "WWW-Authenticate": "Bearer"}
    return errors.answer(401, "key_missing", KEY_MISSING, headers=headers)


def _too_many(limit: int) -> ASGIApp:
    return errors.answer(
        413,
        "body_too_large",
        f"the body may have {limit} values; name a file instead, such as stored masks",
        headers={"Connection": "close"},
    )


def _too_large(limit: int) -> ASGIApp:
    return errors.answer(
        413,
        "body_too_large",
        f"the body may have {limit} bytes (SECATEUR_MAX_BODY_BYTES)",
        headers={"Connection": "close"},
    )
