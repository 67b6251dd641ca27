"""The server with OpenAI's shapes, asked as its clients ask."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from secateur.sparse.generating import Answerer, Options
from secateur.sparse.serving.app import Limits, app_for
from secateur.sparse.serving.turns import Busy, Turns
from tests.models import POSITIONS
from tests.sparse.answering import Held, answerer

NAME = "tiny"
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Answerer:
    return answerer(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="module")
def client(answering: Answerer) -> Iterator[TestClient]:
    with TestClient(app_for(answering, NAME, Limits(most=32, waiting=1))) as found:
        yield found


def answer_of(answering: Answerer, prompt: list[int], most: int) -> str:
    return "".join(piece.text for piece in answering.pieces(prompt, Options(most=most)))


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, which must end as OpenAI's do."""
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_are_listed(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert [one["id"] for one in listed["data"]] == [NAME]
    assert client.get(f"/v1/models/{NAME}").json() == listed["data"][0]
    missing = client.get("/v1/models/gpt-4")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_a_completion(client: TestClient, answering: Answerer) -> None:
    body = {"model": NAME, "prompt": "The gardener", "max_tokens": 8, "temperature": 0}
    found = client.post("/v1/completions", json=body).json()
    prompt = answering.ids_of("The gardener")
    assert found["object"] == "text_completion"
    assert found["choices"] == [
        {"index": 0, "text": answer_of(answering, prompt, 8), "logprobs": None, "finish_reason": "length"}
    ]
    usage = {"prompt_tokens": len(prompt), "completion_tokens": 8, "total_tokens": len(prompt) + 8}
    assert found["usage"] == usage
    streamed = chunks(
        client.post(
            "/v1/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}}
        )
    )
    texts = [choice["text"] for chunk in streamed for choice in chunk["choices"]]
    assert "".join(texts) == found["choices"][0]["text"]
    assert streamed[-1]["usage"] == usage
    assert streamed[-2]["choices"][0]["finish_reason"] == "length"
    assert len({chunk["id"] for chunk in streamed}) == 1


def test_a_chat(client: TestClient, answering: Answerer) -> None:
    body = {"model": NAME, "messages": MESSAGES, "max_completion_tokens": 8, "temperature": 0}
    found = client.post("/v1/chat/completions", json=body).json()
    (choice,) = found["choices"]
    text = answer_of(answering, answering.ids_of_chat(MESSAGES), 8)
    assert found["object"] == "chat.completion"
    assert choice["message"] == {"role": "assistant", "content": text, "refusal": None}
    streamed = chunks(client.post("/v1/chat/completions", json=body | {"stream": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert [chunk["choices"][0]["finish_reason"] for chunk in streamed][-1] == "length"
    stopped = client.post("/v1/chat/completions", json=body | {"stop": [text[2:4]]}).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == (
        text[: text.index(text[2:4])],
        "stop",
    )


@pytest.mark.parametrize(
    ("change", "param", "said"),
    [
        ({"max_tokens": 33}, None, "33, and 32 are allowed here"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"n": 2}, "n", "Input should be 1"),
        ({"logprobs": 5}, "logprobs", "Extra inputs are not permitted"),
        ({"prompt": "tree " * POSITIONS}, None, "positions for prompt and answer together"),
        ({"prompt": ["a", "b"]}, "prompt", "valid string"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    client: TestClient, change: dict[str, Any], param: str | None, said: str
) -> None:
    refused = client.post("/v1/completions", json={"model": NAME, "prompt": "The", **change})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]


def test_another_model_is_not_here(client: TestClient) -> None:
    refused = client.post("/v1/completions", json={"model": "gpt-4", "prompt": "The"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_one_is_answered_and_others_wait_or_are_refused(answering: Answerer) -> None:
    """The first is held in the middle of its answer."""
    held = Held(answering.model, answering.tokenizer)
    nobody_waits = app_for(held, NAME, Limits(most=32, waiting=0))
    body = {"model": NAME, "prompt": "The", "max_tokens": 3, "temperature": 0}

    async def played() -> tuple[httpx.Response, ...]:
        async with _client(nobody_waits) as client:
            first = asyncio.create_task(client.post("/v1/completions", json=body))
            await asyncio.to_thread(held.reached.wait)
            second = await client.post("/v1/completions", json=body)
            third = await client.post("/v1/completions", json=body | {"stream": True})
            held.go.set()
            found = await first
        async with _client(app_for(held, NAME, Limits(most=32, waiting=1))) as client:
            asked = (client.post("/v1/completions", json=body | one) for one in ({}, {"stream": True}))
            return (found, second, third, *await asyncio.gather(*asked))

    first, second, third, fourth, fifth = asyncio.run(played())
    text = first.json()["choices"][0]["text"]
    for refused in (second, third):
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert int(refused.headers["retry-after"]) > 0
    assert fourth.json()["choices"][0]["text"] == text
    assert "".join(one["text"] for chunk in chunks(fifth) for one in chunk["choices"]) == text


def test_turns_count_who_waits() -> None:
    async def played() -> list[str]:
        turns, seen = Turns(waiting=1), []

        async def waits() -> None:
            async with turns.turn():
                seen.append("second")

        async with turns.turn():
            second = asyncio.create_task(waits())
            await asyncio.sleep(0)  # it begins, and waits
            with pytest.raises(Busy, match="1 are waiting"):
                async with turns.turn():
                    seen.append("never")
            seen.append("first")
        await second
        async with turns.turn():
            seen.append("third")
        return seen

    assert asyncio.run(played()) == ["first", "second", "third"]


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here")


def test_who_goes_away_ends_the_answer(answering: Answerer) -> None:
    """The client is gone after the first event, while the next token is being made."""
    held = Held(answering.model, answering.tokenizer)
    app = app_for(held, NAME, Limits(most=32))
    body = {"model": NAME, "prompt": "The", "max_tokens": 30, "temperature": 0, "stream": True}
    asyncio.run(_called_and_left(app, json.dumps(body).encode(), held))
    assert held.made <= 2


async def _called_and_left(app: FastAPI, body: bytes, held: Held) -> None:
    given = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in given:
            return message
        await asyncio.to_thread(held.reached.wait)
        held.go.set()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        """Nobody reads it."""

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http",
        "root_path": "",
    }
    await app(scope, receive, send)  # type: ignore[arg-type]
