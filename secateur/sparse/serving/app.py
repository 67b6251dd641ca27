"""The server: models, completions and chat completions.

One request is answered at a time, because one model on one CPU has nothing to gain from two. A few may wait,
and more get 429. Who goes away in the middle of an answer ends it at the next token.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from secateur.sparse.errors import SparseError
from secateur.sparse.generating import Answerer, Options, Piece
from secateur.sparse.serving.answers import Answer, error_shape
from secateur.sparse.serving.requests import Chat, Completion
from secateur.sparse.serving.turns import Busy, Turns

INVALID = "invalid_request_error"
RETRY_AFTER_SECONDS = "5"
CLOSED_BY_CLIENT = 499  # nobody reads this answer; the number is for logs


@dataclass(frozen=True)
class Limits:
    """`most`: tokens of an answer, at most. `waiting`: requests that may wait while one is answered."""

    most: int = 1024
    waiting: int = 4


def app_for(answerer: Answerer, name: str, limits: Limits) -> FastAPI:
    """The server for a model. `name`: that of the model in requests and answers."""
    app = FastAPI(title=f"{name}, served by secateur", openapi_url=None)
    turns = Turns(waiting=limits.waiting)
    _say_errors_as_openai(app)

    @app.get("/v1/models")
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(name)]})

    @app.get("/v1/models/{asked:path}")
    async def model(asked: str) -> JSONResponse:
        _check_model(asked, name)
        return JSONResponse(_model(name))

    @app.post("/v1/completions")
    async def completions(body: Completion, request: Request) -> Response:
        _check_model(body.model, name)
        prompt = await to_thread.run_sync(answerer.ids_of, body.prompt)
        return await _answered(Answer("text", name, len(prompt)), prompt, body, request)

    @app.post("/v1/chat/completions")
    async def chat(body: Chat, request: Request) -> Response:
        _check_model(body.model, name)
        messages = [one.model_dump() for one in body.messages]
        prompt = await to_thread.run_sync(answerer.ids_of_chat, messages)
        return await _answered(Answer("chat", name, len(prompt)), prompt, body, request)

    async def _answered(
        answer: Answer, prompt: list[int], body: Chat | Completion, request: Request
    ) -> Response:
        options = _options(body, answerer.room(prompt), limits)
        pieces = _Pieces(answerer.pieces(prompt, options))
        if body.stream:
            return _InTurn(turns, _events(answer, pieces, with_usage=body.with_usage))
        text, last = "", None
        async with turns.turn():
            async for last in pieces:
                text += last.text
                if await request.is_disconnected():
                    return Response(status_code=CLOSED_BY_CLIENT)
        assert last is not None
        assert last.finish is not None, "the last piece says why it is the last"
        return JSONResponse(answer.whole(text, last.tokens, last.finish))

    return app


class _Pieces:
    """The pieces of an answer, each of them made in a thread. Whoever stops reading ends the answer."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[Piece]:
        while (piece := await to_thread.run_sync(next, self._pieces, None)) is not None:
            yield piece


class _InTurn(EventSourceResponse):
    """Events that are made when their turn has come. Starlette cancels them when the client goes away."""

    def __init__(self, turns: Turns, events: AsyncIterator[str]) -> None:
        super().__init__(events, sep="\n")
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._turns.turn():
                await super().__call__(scope, receive, send)
        except Busy as busy:
            await _refused(busy)(scope, receive, send)


async def _events(answer: Answer, pieces: _Pieces, *, with_usage: bool) -> AsyncIterator[str]:
    """The data of each event of a stream."""
    if answer.kind == "chat":
        yield json.dumps(answer.opening())
    async for piece in pieces:
        if piece.text:
            yield json.dumps(answer.part(piece.text))
        if piece.finish is not None:
            yield json.dumps(answer.end(piece.finish))
            if with_usage:
                yield json.dumps(answer.counted(piece.tokens))
    yield "[DONE]"


def _options(body: Chat | Completion, room: int | None, limits: Limits) -> Options:
    most = limits.most if room is None else min(limits.most, room)
    asked = body.tokens or most
    if asked > most:
        raise SparseError(
            f"max_tokens is {asked}, and {most} are allowed here: this server answers with at most "
            f"{limits.most} tokens (--max-tokens), and the model has "
            f"{'any number of' if room is None else room} positions left after this prompt"
        )
    return Options(
        most=asked, temperature=body.temperature, top_p=body.top_p, seed=body.seed, stop=body.stops
    )


def _model(name: str) -> dict[str, str | int]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "secateur"}


def _check_model(asked: str, name: str) -> None:
    if asked != name:
        raise HTTPException(404, f"the model {asked!r} is not here; this server has {name!r}")


def _refused(busy: Busy) -> JSONResponse:
    shape = error_shape(str(busy), "rate_limit_error", code="rate_limit_exceeded")
    return JSONResponse(shape, 429, {"Retry-After": RETRY_AFTER_SECONDS})


def _say_errors_as_openai(app: FastAPI) -> None:
    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        return _refused(error)

    @app.exception_handler(SparseError)
    async def unusable(request: Request, error: SparseError) -> JSONResponse:
        return JSONResponse(error_shape(str(error), INVALID), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part != "body")
        shape = error_shape(f"{param or 'the body'}: {first['msg']}", INVALID, param=param or None)
        return JSONResponse(shape, 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = "model_not_found" if error.status_code == 404 and "model" in error.detail else None
        return JSONResponse(error_shape(error.detail, INVALID, code=code), error.status_code)
