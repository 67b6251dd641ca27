"""A network that misbehaves on purpose, in front of a real S3 server: an HTTP proxy with planned faults."""

import contextlib
import os
import socket
import struct
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.ports import HOST
from tests.servers import S3Server

COPY_BYTES = 64 * 1024
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "expect")


@dataclass(frozen=True)
class Request:
    """What the proxy saw of a request; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """What happens instead of a good answer.

    `status` with `body` is answered without asking the server. `cut_after` body bytes the connection ends, in
    good order or with a reset; a negative count ends it before the status line, when the server has done its
    work.
    """

    status: int | None = None
    body: bytes = b""
    cut_after: int | None = None
    reset: bool = False


@dataclass
class Network:
    """Server as seen through the proxy, the requests so far, and the plan: a fault or None per request."""

    server: S3Server
    requests: list[Request] = field(default_factory=list)
    plan: Callable[[Request], Fault | None] = lambda _: None


@contextlib.contextmanager
def faulty_network(server: S3Server) -> Iterator[Network]:
    """A proxy on a port of its own."""
    network = Network(server)
    upstream = urlsplit(server.endpoint).netloc

    class Handler(_Handler):
        def answer(self, request: Request, body: bytes) -> None:
            network.requests.append(request)
            self.relay(upstream, request, body, network.plan(request) or Fault())

    class Proxy(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            if not isinstance(sys.exception(), OSError):  # the client has left, or was killed
                super().handle_error(request, client_address)

    with Proxy((HOST, 0), Handler) as proxy:
        network.server = replace(server, endpoint=f"http://{HOST}:{proxy.server_address[1]}")
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield network
        finally:
            proxy.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler, ABC):
    protocol_version = "HTTP/1.1"

    @abstractmethod
    def answer(self, request: Request, body: bytes) -> None:
        """Answers a request."""

    def _serve(self) -> None:
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"  # as Arrow sends
        body = self._chunks() if chunked else self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.answer(Request(self.command, self.path, headers), body)

    def _chunks(self) -> bytes:
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers
        return b"".join(chunks)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def relay(self, upstream: str, request: Request, body: bytes, fault: Fault) -> None:
        if fault.status is not None:
            self.send_response(fault.status)
            self.send_header("Content-Length", str(len(fault.body)))
            self.end_headers()
            self.wfile.write(fault.body)
            return
        with contextlib.closing(HTTPConnection(upstream, timeout=30)) as connection:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in HOP_BY_HOP:
                    connection.putheader(name, value)
            chunked = "transfer-encoding" in request.headers
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(body, encode_chunked=chunked)
            with connection.getresponse() as response:
                self._copy(response, fault)

    def _copy(self, response: HTTPResponse, fault: Fault) -> None:
        limit = fault.cut_after
        if limit is None or limit >= 0:
            self._copy_head(response)
            sent = 0
            while (limit is None or sent < limit) and (
                chunk := response.read(COPY_BYTES if limit is None else min(COPY_BYTES, limit - sent))
            ):
                try:
                    self.wfile.write(chunk)
                except OSError:  # the client has left
                    self.close_connection = True
                    return
                sent += len(chunk)
        if limit is not None:
            self._hang_up(reset=fault.reset)

    def _copy_head(self, response: HTTPResponse) -> None:
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if response.status not in (204, 304) and response.getheader("Content-Length") is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def _hang_up(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # the base class would say goodbye first
        else:
            self.connection.shutdown(socket.SHUT_WR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""
