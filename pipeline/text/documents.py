"""Text sources become documents: lines or whole .txt files, rows of .jsonl, .parquet and hub datasets.

The steps after the documents are in tokens.py; they are exported here too, so that callers can read and cut
with one import.
"""

from collections.abc import Iterator

from pipeline.sources.access import Source, SourceAccess
from pipeline.sources.pins import Pin
from pipeline.spec.texts import TextSource
from pipeline.spec.uri import parse_uri
from pipeline.text.chats import ChatReader
from pipeline.text.hub_rows import hub_rows
from pipeline.text.rows import jsonl_rows, lines, parquet_rows, whole
from pipeline.text.tokens import (
    Tokenizer,
    cut_samples,
    materialise_tokenizer,
    perplexity_tokens,
    perplexity_windows,
    tokenizer_digest,
)
from pipeline.text.unpacking import unpacked

__all__ = [
    "ChatReader",
    "Tokenizer",
    "cut_samples",
    "materialise_tokenizer",
    "perplexity_tokens",
    "perplexity_windows",
    "read_documents",
    "tokenizer_digest",
]


def read_documents(
    text: TextSource, pin: Pin, source: Source, access: SourceAccess, *, reader: ChatReader | None = None
) -> Iterator[str]:
    """Yields the documents of a pinned text, one after the other, in bounded memory. `reader`: what makes the
    chats of a column into text.

    Empty lines of a .txt are no documents; empty rows are. Raises InvalidSpec for bytes that are not UTF-8,
    damaged packing, rows without the column, chats that nothing can read, and unknown configs and splits;
    SourceChanged as `Source.read` does.
    """
    if parse_uri(pin.source).scheme == "hub":
        return hub_rows(text, pin, access, reader)
    chunks = unpacked(text, source.read(pin.files[0]))
    if text.format == "parquet":
        return parquet_rows(text, chunks, reader)
    if text.format == "jsonl":
        return jsonl_rows(text, chunks, reader)
    if text.documents == "lines":
        return (line for line in lines(text, chunks) if line.strip())
    return whole(text, chunks)
