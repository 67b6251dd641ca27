"""The source of a text in a spec, and the way in which its documents become calibration samples."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.uri import TextUri, parse_uri

ENDINGS = (".txt", ".jsonl", ".parquet")


class TextSource(Frozen):
    """The source of documents: a `.txt`, `.jsonl` or `.parquet` file, or a dataset on the hub.

    `config`, `split`, `column` select within a dataset (`column` also within jsonl and parquet).
    `documents`: each non-empty line of a `.txt` file is a document, or the whole file is one.
    """

    source: TextUri
    config: str | None = None
    split: str = "train"
    column: str = "text"
    documents: Literal["lines", "file"] = "lines"

    @model_validator(mode="after")
    def _known_ending(self) -> "TextSource":
        if parse_uri(self.source).scheme != "hub" and not self.source.endswith(ENDINGS):
            raise ValueError(
                f"source {self.source!r} must end in one of {', '.join(ENDINGS)}, or be a hub: dataset"
            )
        return self


class Calibration(TextSource):
    """The token sequences on which the inputs of linears are measured.

    `cut`: `random_window` draws documents and windows as the published Wanda, SparseGPT and OWL code does
    (Python's `random` seeded with `seed`); `packed` joins the documents with EOS and shuffles the
    consecutive windows.
    """

    samples: int = Field(default=128, ge=1, le=100_000)
    sequence_length: int = Field(default=2048, ge=2, le=1_048_576)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    cut: Literal["random_window", "packed"] = "random_window"
