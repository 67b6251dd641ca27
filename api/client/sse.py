"""Server-sent events as a client reads them (the part of the standard that our API uses)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSentMessage:
    """One message. `id` is empty when the server gave none."""

    id: str
    event: str
    data: str


def messages(chunks: Iterable[bytes]) -> Iterator[ServerSentMessage]:
    """Messages of a stream; one that is cut off before its empty line is dropped, as the standard asks.

    Lines end at CR, LF or CR LF alone: JSON may hold other characters that Python counts as line ends.
    """
    fields: dict[str, list[str]] = {}
    for line in _lines(chunks):
        if not line:
            if fields.get("data"):
                yield _message(fields)
            fields = {}
            continue
        name, _, value = line.partition(":")
        if name:  # a line that begins with a colon is a comment that keeps the connection alive
            fields.setdefault(name, []).append(value.removeprefix(" "))


def _message(fields: dict[str, list[str]]) -> ServerSentMessage:
    return ServerSentMessage(
        id=fields.get("id", [""])[-1],
        event=fields.get("event", ["message"])[-1],
        data="\n".join(fields["data"]),
    )


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    pending = b""
    for chunk in chunks:
        pending += chunk
        if b"\r" in pending:
            held = b"\r" if pending.endswith(b"\r") else b""  # its LF may come with the next chunk
            pending = pending[: len(pending) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        *complete, pending = pending.split(b"\n")
        for line in complete:
            yield line.decode("utf-8", "replace")
