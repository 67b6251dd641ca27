"""The source of a text in a spec, and the way in which its documents become calibration samples."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.uri import TextUri, parse_uri

Format = Literal["txt", "jsonl", "parquet"]
FORMATS: dict[str, Format] = {".txt": "txt", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
PACKED = (".gz", ".zst")  # in any of these formats
Bos = Literal["none", "once", "every_window"]


def text_tokens(sequence_length: int, bos: str | None) -> int:
    """The number of tokens of text in a sequence: all but the BOS that `every_window` puts in front of it."""
    return sequence_length - (bos == "every_window")


def is_unset(value: object) -> bool:
    """Tells whether a field is left to its default. Such fields are not dumped, so that a new one does not
    change the stage keys of specs without it."""
    return value is None


class TextSource(Frozen):
    """The source of documents: a `.txt`, `.jsonl` or `.parquet` file, or a dataset on the hub. `.json` holds
    JSON lines, as C4 names them. Files may be packed, as `.jsonl.gz` or `.txt.zst`.

    `config`, `split`, `column` select within a dataset (`column` also within jsonl and parquet). A column
    holds text, or chats (lists of messages with `role` and `content`, or `from` and `value`), which the
    chat template of the model makes into text. `documents`: each non-empty line of a `.txt` file is a
    document, or the whole file is one.
    """

    source: TextUri
    config: str | None = None
    split: str = "train"
    column: str = "text"
    documents: Literal["lines", "file"] = "lines"

    @model_validator(mode="after")
    def _known_ending(self) -> "TextSource":
        if not self.on_hub and self._ending not in FORMATS:
            raise ValueError(
                f"source {self.source!r} must end in one of {', '.join(FORMATS)}, each also with "
                f"{' or '.join(PACKED)} behind it, or be a hub: dataset"
            )
        return self

    @property
    def on_hub(self) -> bool:
        """True for a dataset on the hub."""
        return parse_uri(self.source).scheme == "hub"

    @property
    def format(self) -> Format:
        """The format of a file, by its name."""
        return FORMATS[self._ending]

    @property
    def is_plain(self) -> bool:
        """True if a token takes a byte of the source at least, as far as its name tells: it is neither packed
        nor on the hub."""
        return not self.on_hub and not self.source.endswith(PACKED) and self.format != "parquet"

    @property
    def _ending(self) -> str:
        name = self.source
        for ending in PACKED:
            name = name.removesuffix(ending)
        return "." + name.rsplit("/", 1)[-1].rpartition(".")[2]


class Calibration(TextSource):
    """The token sequences on which the inputs of linears are measured.

    `cut`: `random_window` draws documents and windows as the published Wanda, SparseGPT and OWL code does
    (Python's `random` seeded with `seed`); `packed` joins the documents with EOS and shuffles the
    consecutive windows.

    `bos`: `none` never has BOS in a sample, `once` puts it in front of each document before a sample is cut
    from it, `every_window` in front of each sample, which then has `sequence_length` - 1 tokens of text. The
    default is the model's own habit: `every_window` for Gemma. Other models take random windows of
    documents as their tokenizer marks them, and packed ones without BOS.
    """

    samples: int = Field(default=128, ge=1, le=100_000)
    sequence_length: int = Field(default=2048, ge=2, le=1_048_576)
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    cut: Literal["random_window", "packed"] = "random_window"
    bos: Bos | None = Field(default=None, exclude_if=is_unset)

    @property
    def text_length(self) -> int:
        """The number of tokens of text in a sample."""
        return text_tokens(self.sequence_length, self.bos)
