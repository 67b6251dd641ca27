"""Packed texts are unpacked while they stream. Their first bytes say how they are packed, whatever their
name."""

import io
from collections.abc import Iterable, Iterator

from pipeline.errors import InvalidSpec
from pipeline.spec.texts import TextSource

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
CODECS = {GZIP: "gzip", ZSTD: "zstd"}
# Kinds of files that are not read as text, whatever their name.
OTHERS = {
    b"BZh": "a bzip2 file: unpack it, or pack it with gzip or zstd",
    b"\xfd7zXZ\x00": "an xz file: unpack it, or pack it with gzip or zstd",
    b"PK\x03\x04": "a zip archive: unpack it, and name one file of it",
    b"7z\xbc\xaf": "a 7z archive: unpack it, and name one file of it",
}
HEAD_BYTES = 8  # enough to tell all of them apart
PIECE_BYTES = 1 << 20
FREE_BYTES = 1 << 26  # of unpacked text, before its ratio to what was read counts
MAX_RATIO = 200  # of unpacked to packed bytes; text that people wrote packs 3 to 20 times smaller


def is_packed(chunks: Iterable[bytes]) -> bool:
    """Tells from the first bytes of a file whether it is packed with gzip or zstd."""
    return _started(iter(chunks)).startswith(tuple(CODECS))


def unpacked(text: TextSource, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the bytes of a text, unpacked if it is packed with gzip or zstd, in bounded memory.

    Raises InvalidSpec for files of other kinds, for one that ends early or is damaged, and for one that
    unpacks to more than MAX_RATIO times its size.
    """
    rest = iter(chunks)
    head = _started(rest)
    kind = next((told for magic, told in OTHERS.items() if head.startswith(magic)), None)
    if head.startswith(PARQUET) and text.format != "parquet":
        kind = "a parquet file: let its name end in .parquet"
    if kind is not None:
        raise InvalidSpec(f"{text.source} is {kind}")
    codec = next((name for magic, name in CODECS.items() if head.startswith(magic)), None)
    if codec is None:
        yield head
        yield from rest
        return
    yield from _inflated(text, _Stream(head, rest), codec)


def _started(chunks: Iterator[bytes]) -> bytes:
    """Returns the first chunks of a file, up to HEAD_BYTES or more."""
    head = b""
    while len(head) < HEAD_BYTES and (chunk := next(chunks, None)) is not None:
        head += chunk
    return head


def _inflated(text: TextSource, packed: "_Stream", codec: str) -> Iterator[bytes]:
    import pyarrow as pa

    size = 0
    try:
        stream = pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), codec)
        while piece := stream.read(PIECE_BYTES):
            size += len(piece)
            if size > FREE_BYTES and size > MAX_RATIO * packed.taken:
                raise InvalidSpec(
                    f"{text.source} unpacks to more than {MAX_RATIO} times its size: {size} bytes from the "
                    f"first {packed.taken}; if this is right, unpack it before"
                )
            yield piece
    except (pa.ArrowException, OSError) as error:  # OSError: how pyarrow reports damaged streams
        raise InvalidSpec(f"{text.source} is not a whole {codec} file: {error}") from error


class _Stream(io.RawIOBase):
    """Chunks as the file that pyarrow reads. `taken`: the number of bytes read so far."""

    def __init__(self, head: bytes, rest: Iterator[bytes]) -> None:
        self._held = head
        self._rest = rest
        self.taken = 0

    def readable(self) -> bool:
        """See RawIOBase."""
        return True

    def read(self, size: int = -1) -> bytes:
        """See RawIOBase; at most `size` bytes, and none only at the end."""
        while not self._held and (chunk := next(self._rest, None)) is not None:
            self._held = chunk
        size = len(self._held) if size < 0 else size
        piece, self._held = self._held[:size], self._held[size:]
        self.taken += len(piece)
        return piece
