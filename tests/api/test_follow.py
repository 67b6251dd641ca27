"""How the client follows a job: events come whole from any chunks, and a cut stream is asked for again."""

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest

from api.client import client as client_module
from api.client.client import SecateurClient
from pipeline.job.events import Event, Message

TEXTS = ("first", "two\u2028lines\x85 of JSON", "third")
EVENTS = [
    Event(id=i, job="job-1", attempt=1, at=datetime(2030, 1, 1, tzinfo=UTC), body=Message(text=text))
    for i, text in enumerate(TEXTS, start=1)
]


def told(event: Event, end: bytes) -> bytes:
    """One event as the service sends it."""
    fields = (f"id: {event.id}", f"event: {event.body.type}", f"data: {event.model_dump_json()}", "")
    return b"".join(field.encode() + end for field in fields)


FIRST = b"".join(
    [
        b": keep-alive\r\n\r\n",
        told(EVENTS[0], b"\r\n"),
        b'event: of.a.newer.service\ndata: one\ndata: {"two": 2}\n\n: keep-alive\n\n',
        told(EVENTS[1], b"\n"),
        told(EVENTS[2], b"\n")[:-2],  # cut off: its end has not come
    ]
)


class Chunks(httpx.SyncByteStream):
    """A body in pieces of one size."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self.data), self.size):
            yield self.data[start : start + self.size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_come_whole_and_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    bodies, asked = [FIRST, told(EVENTS[1], b"\n") + told(EVENTS[2], b"\r")], []
    kind = {"Content-Type": "text/event-stream; charset=utf-8"}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["Last-Event-ID"])
        body = bodies.pop(0) if bodies else b""
        return httpx.Response(200, headers=kind, stream=Chunks(body, size))

    statuses = iter(["running", "succeeded"])
    monkeypatch.setattr(SecateurClient, "job", lambda self, name: SimpleNamespace(status=next(statuses)))
    monkeypatch.setattr(client_module, "FIRST_PAUSE_SECONDS", 0)
    with SecateurClient(transport=httpx.MockTransport(answer)) as client:
        assert list(client.follow("job-1")) == EVENTS
    assert asked == ["0", "2", "3"]


def test_a_page_in_place_of_the_stream_is_a_service_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecateurClient, "job", lambda self, name: SimpleNamespace(status="running"))
    monkeypatch.setattr(client_module, "GIVE_UP_SECONDS", -1)
    page = httpx.MockTransport(lambda request: httpx.Response(200, html="<html>"))
    with (
        SecateurClient(transport=page) as client,
        pytest.raises(client_module.ServiceAwayError, match="text/event-stream"),
    ):
        list(client.follow("job-1"))
