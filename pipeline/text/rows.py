"""Documents in files: lines of text, JSON objects, rows of a parquet table. All stream in bounded memory."""

import codecs
import json
import tempfile
from collections.abc import Iterable, Iterator

from pipeline.errors import InvalidSpec
from pipeline.spec.texts import TextSource
from pipeline.text.chats import ChatReader, chat, messages_in


def whole(text: TextSource, chunks: Iterable[bytes]) -> Iterator[str]:
    """Yields a .txt file as one document; nothing when it is blank."""
    content = "".join(_decoded(text, chunks))
    if content.strip():
        yield content


def lines(text: TextSource, chunks: Iterable[bytes]) -> Iterator[str]:
    """Yields lines without their ends, \\n or \\r\\n: other Unicode line breaks are part of a document."""
    rest: list[str] = []
    for piece in _decoded(text, chunks):
        first, *more = piece.split("\n")
        rest.append(first)
        for line in more:
            yield "".join(rest).removesuffix("\r")
            rest = [line]
    yield "".join(rest).removesuffix("\r")


def jsonl_rows(text: TextSource, chunks: Iterable[bytes], reader: ChatReader | None) -> Iterator[str]:
    """Yields the column of every object; blank lines are skipped. `reader`: what reads chats."""
    for number, line in enumerate(lines(text, chunks), start=1):
        if not line.strip():
            continue
        where = f"{text.source} line {number}"
        if number == 1 and line.lstrip().startswith("["):
            raise InvalidSpec(
                f"{text.source} holds one JSON list; write one object per line, for example with jq -c '.[]'"
            )
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidSpec(
                f"{where} is not JSON, and every line must be a JSON object: {error}"
            ) from error
        if not isinstance(row, dict):
            raise InvalidSpec(
                f"{where} must be a JSON object with column {text.column!r}, got {type(row).__name__}"
            )
        if text.column not in row:
            raise no_column(text, list(row), where=where)
        yield document(row[text.column], text, reader, where=where)


def parquet_rows(text: TextSource, chunks: Iterable[bytes], reader: ChatReader | None) -> Iterator[str]:
    """Yields the column of every row, batch by batch from a temporary file, because the format's index is at
    its end."""
    import pyarrow as pa
    from pyarrow import parquet

    with tempfile.TemporaryFile(prefix="secateur-parquet-") as file:
        for chunk in chunks:
            file.write(chunk)
        file.seek(0)
        number = 0
        try:
            table = parquet.ParquetFile(file)
            columns = table.schema_arrow.names
            if text.column not in columns:
                raise no_column(text, columns, where=text.source)
            for batch in table.iter_batches(columns=[text.column], batch_size=1024):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield document(value, text, reader, where=f"{text.source} row {number}")
        # pyarrow reports damaged pages as OSError, and damaged strings in them as UnicodeDecodeError.
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InvalidSpec(f"{text.source} is not a whole parquet file: {error}") from error


def no_column(text: TextSource, columns: Iterable[str], *, where: str) -> InvalidSpec:
    """Returns the error for a column that does not exist."""
    return InvalidSpec(f"{where} has no column {text.column!r}; set column to one of: {', '.join(columns)}")


def document(value: object, text: TextSource, reader: ChatReader | None, *, where: str) -> str:
    """Returns the value, or the chat that it is, as a text that a tokenizer accepts. Raises InvalidSpec for
    other values."""
    messages = messages_in(value)
    if messages is not None:
        value = chat(messages, text, reader, where=where)
    if not isinstance(value, str):
        raise InvalidSpec(f"{where}: column {text.column!r} must hold text, got {_described(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidSpec(f"{where}: column {text.column!r} holds half of a character: {error}") from error
    return value


def _described(value: object) -> str:
    """Returns the type of a value, and a hint at what it holds."""
    if isinstance(value, dict):
        return f"an object with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {type(value[0]).__name__}" if value else "an empty list"
    return type(value).__name__


def _decoded(text: TextSource, chunks: Iterable[bytes]) -> Iterator[str]:
    """Decodes UTF-8, with or without a byte order mark."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0  # the position of the first byte after those given to the decoder
    first = True
    for chunk in _with_end(chunks):
        held = len(decoder.getstate()[0])
        try:
            piece = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            raise InvalidSpec(
                f"{text.source} is not UTF-8: byte {position - held + error.start} is "
                f"0x{error.object[error.start]:02x} ({error.reason}); "
                f"convert it, for example with iconv -t utf-8"
            ) from error
        position += len(chunk)
        if piece:
            yield piece.removeprefix("\ufeff") if first else piece
            first = False


def _with_end(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the chunks that are not empty, and finally an empty one."""
    for chunk in chunks:
        if chunk:
            yield chunk
    yield b""
