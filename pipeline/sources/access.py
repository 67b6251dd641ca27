"""The sources that a deployment lets jobs read, and one interface for files, buckets and the hub."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, SecretStr, field_validator

from pipeline.errors import InvalidSpec
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.spec.uri import parse_uri
from pipeline.storage.options import S3Settings

ROOTS_SETTING = "SECATEUR_ALLOWED_ROOTS"
TOKEN_SETTING = "SECATEUR_HUB_TOKEN"
Repository = Literal["model", "dataset"]
TEMPLATE_FOLDER = "additional_chat_templates"  # the one folder whose files belong to a checkpoint
Wanted = Callable[[str], bool]


class SourceAccess(S3Settings, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The sources that may be read, and the credentials for them. The API's and the workers' settings inherit
    this.

    Without `allowed_roots`, `file:` sources are off. With `hub_offline` the hub is never contacted, and only
    its cache is used. `hub_endpoint` and `hub_cache_dir` default to those of huggingface_hub.
    """

    allowed_roots: tuple[Path, ...] = Field(
        default=(),
        description="Directories below which `file:` sources may lie: a JSON list, or separated by `:`.",
    )
    hub_endpoint: str | None = Field(default=None, description="Hugging Face hub, or a mirror of it.")
    hub_token: SecretStr | None = Field(default=None, description="Token for gated or private repositories.")
    hub_cache_dir: Path | None = Field(default=None, description="Where files of the hub are kept.")
    hub_offline: bool = Field(default=False, description="Refuse `hub:` sources that are not cached.")

    @property
    def bearer(self) -> str | Literal[False]:
        """The hub token as Hugging Face's libraries take it: with None they would look for one elsewhere."""
        return self.hub_token.get_secret_value() if self.hub_token else False

    def access(self) -> "SourceAccess":
        """Returns these settings alone, without the other settings of a process."""
        return SourceAccess.model_validate({name: getattr(self, name) for name in SourceAccess.model_fields})

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [part for part in value.split(os.pathsep) if part]

    @field_validator("allowed_roots")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.absolute() for path in value)


class Source(Protocol):
    """A place with files: one file, the files directly inside a directory or prefix, or a hub repository.
    Those in the folder `additional_chat_templates` count as well, by names such as
    `additional_chat_templates/rag.jinja`.

    A hub dataset is the exception: it is pinned as a whole, as one entry without bytes, and read through the
    `datasets` library (pipeline/text/hub_rows.py).
    """

    @property
    def uri(self) -> str:
        """The address of the source, as the spec states it."""
        ...

    def names(self) -> tuple[str, ...]:
        """Returns the names of the files, sorted. Raises SourceNotFound, SourceNotAllowed,
        SourceUnreachable."""
        ...

    def folders(self) -> tuple[str, ...]:
        """Returns the names of the folders directly inside, sorted. Raises the errors of `names`."""
        ...

    def pin(self, wanted: Wanted) -> Pin:
        """Returns the files whose names are wanted, with sizes and tags, by name. Raises the errors of
        `names`."""
        ...

    def read(self, file: PinnedFile) -> Iterator[bytes]:
        """Streams a pinned file. Raises SourceChanged when it differs from the pinned one, on the first chunk
        or instead of the end; StorageUnavailable when bucket or hub stop answering."""
        ...

    def head(self, file: PinnedFile, size: int) -> bytes:
        """Returns the first `size` bytes of a pinned file, or all of a smaller one, without fetching the
        rest. Raises as `read` does; a content that only its digest tells apart is not noticed here."""
        ...


def counts(path: str) -> bool:
    """Tells whether a file at a path below a source counts as one of its files."""
    folder, slash, name = path.rpartition("/")
    return name != "" and (not slash or folder == TEMPLATE_FOLDER)


def open_source(uri: str, access: SourceAccess, *, repository: Repository = "model") -> Source:
    """Opens the source behind a URI, without contacting it. `repository`: the kind that a `hub:` name stands
    for."""
    try:
        parsed = parse_uri(uri)
    except ValueError as error:
        raise InvalidSpec(str(error)) from error
    if parsed.scheme == "file":
        from pipeline.sources.file import FileSource

        return FileSource(Path(parsed.location), access.allowed_roots)
    if parsed.scheme == "s3":
        from pipeline.sources.s3 import S3Source  # loads boto3

        return S3Source(parsed.location, access.s3)
    from pipeline.sources.hub import HubSource  # loads huggingface_hub

    return HubSource(parsed, access, repository)
