"""What a driver reports arrives whole and in order, also when the API was away."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.job.events import Message
from pipeline.job.ledger import WorkOrder
from pipeline.request.prune_spec import JobRequest
from tests.made_pins import made_pins
from tests.ports import free_port
from workers.reporter import ApiReporter

TOKEN = "attempt-token"


class Receiver:
    """The receiving end of the API: counts what it accepts, and may refuse or be away."""

    def __init__(self) -> None:
        self.port = free_port()
        self.sequences: list[int] = []
        self.tokens: set[str] = set()
        self.status = 200
        self.got = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if receiver.status == 200:
                    receiver.tokens.add(self.headers["Authorization"])
                    receiver.sequences += [event["sequence"] for event in body["events"]]
                receiver.got.set()
                self.send_response(receiver.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def order(receiver: Receiver) -> WorkOrder:
    request = JobRequest.model_validate(
        {
            "spec": {
                "model": {"source": "file:/m"},
                "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}},
            }
        }
    )
    pins = made_pins(request.spec)
    url = f"http://127.0.0.1:{receiver.port}"
    return WorkOrder(job="job-x", attempt=1, request=request, pins=pins, report_to=url, token=TOKEN)


def test_events_wait_for_an_api_that_is_away() -> None:
    receiver = Receiver()
    reporter = ApiReporter(order(receiver))
    for i in range(250):
        reporter.emit(Message(text=str(i)))
    with receiver.listening():
        reporter.close(300)
    assert receiver.sequences == list(range(1, 251))
    assert receiver.tokens == {f"Bearer {TOKEN}"}
    assert not reporter.revoked


def test_server_errors_are_tried_again() -> None:
    receiver = Receiver()
    receiver.status = 503
    with receiver.listening():
        reporter = ApiReporter(order(receiver))
        reporter.emit(Message(text="one"))
        assert receiver.got.wait(300)
        receiver.status = 200
        reporter.close(300)
    assert receiver.sequences == [1]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refused_token_ends_the_attempt(status: int) -> None:
    receiver = Receiver()
    receiver.status = status
    with receiver.listening():
        reporter = ApiReporter(order(receiver))
        reporter.emit(Message(text="one"))
        reporter.close(300)
    assert reporter.revoked
    assert receiver.sequences == []


def test_the_deadline_ends_the_waiting() -> None:
    reporter = ApiReporter(order(Receiver()))
    reporter.emit(Message(text="one"))
    reporter.close(0.1)
    assert not reporter.revoked


def test_the_token_is_not_in_the_orders_repr(tmp_path: Path) -> None:
    assert TOKEN not in repr(order(Receiver()))
