"""A network that is far away, in front of a real S3 server: a TCP proxy in a process of its own, which gives
each connection a round trip time and a bandwidth."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

from tests.ports import HOST
from tests.servers import S3Server

CHUNK_BYTES = 64 * 1024
CHUNKS_IN_FLIGHT = 64
SLEEP_SECONDS = 0.001  # shorter waits are added up


@contextlib.contextmanager
def slow_network(server: S3Server, *, latency: float, bytes_per_second: float) -> Iterator[S3Server]:
    """Yields the server as it is seen through the proxy. `latency`: seconds of a round trip."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    upstream = urlsplit(server.endpoint)
    process = context.Process(
        target=_serve, args=(theirs, upstream.hostname, upstream.port, latency, bytes_per_second), daemon=True
    )
    process.start()
    try:
        port = ours.recv()
        yield replace(server, endpoint=f"http://{HOST}:{port}")
    finally:
        process.terminate()
        process.join()


def _serve(told: Connection, host: str, port: int, latency: float, bytes_per_second: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(latency)  # the handshake of TCP
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _relay(reader, up_writer, latency / 2, bytes_per_second),
            _relay(up_reader, writer, latency / 2, bytes_per_second),
        )

    async def run() -> None:
        listening = await asyncio.start_server(connected, HOST, 0)
        told.send(listening.sockets[0].getsockname()[1])
        await listening.serve_forever()

    asyncio.run(run())


async def _relay(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay: float, bytes_per_second: float
) -> None:
    """Passes bytes on, each `delay` seconds after it came, and not faster than the bandwidth allows."""
    loop = asyncio.get_running_loop()
    flying: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_IN_FLIGHT)

    async def take() -> None:
        data = b"."
        while data:
            try:
                data = await source.read(CHUNK_BYTES)
            except OSError:
                data = b""
            await flying.put((loop.time() + delay, data))

    taking = asyncio.create_task(take())
    free_at = loop.time()
    with contextlib.suppress(OSError):
        while True:
            due, data = await flying.get()
            free_at = max(free_at, due)
            if (wait := free_at - loop.time()) > SLEEP_SECONDS:
                await asyncio.sleep(wait)
            if not data:
                break
            free_at += len(data) / bytes_per_second
            sink.write(data)
            await sink.drain()
    taking.cancel()
    with contextlib.suppress(OSError):
        sink.close()
