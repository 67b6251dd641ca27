"""What a deployment lets jobs read, and the one interface behind which files, buckets and the hub lie."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pipeline.errors import InvalidSpec
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.spec.uri import parse_uri
from pipeline.storage.options import S3Options

ROOTS_SETTING = "SECATEUR_ALLOWED_ROOTS"
TOKEN_SETTING = "SECATEUR_HUB_TOKEN"
Repository = Literal["model", "dataset"]
Wanted = Callable[[str], bool]


@dataclass(frozen=True)
class SourceAccess:
    """What may be read, and with whose credentials.

    `allowed_roots`: directories below which `file:` sources may lie; none means that they are off.
    `hub_offline`: the hub is never asked; what its cache holds is all there is. `hub_endpoint` and
    `hub_cache_dir` default to those of huggingface_hub.
    """

    allowed_roots: tuple[Path, ...] = ()
    s3: S3Options | None = None
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    hub_cache_dir: Path | None = None
    hub_offline: bool = False


class Source(Protocol):
    """A place with files: one file, the files directly inside a directory or prefix, or a hub repository.

    A hub dataset is the exception: it is pinned whole, as one entry without bytes, and read through the
    `datasets` library (pipeline/text/hub_rows.py).
    """

    @property
    def uri(self) -> str:
        """Where this is, as the spec says it."""
        ...

    def names(self) -> tuple[str, ...]:
        """Names of the files, sorted. Raises SourceNotFound, SourceNotAllowed, SourceUnreachable."""
        ...

    def pin(self, wanted: Wanted) -> Pin:
        """The files whose names are wanted, with sizes and tags, by name. Raises as `names` does."""
        ...

    def read(self, file: PinnedFile) -> Iterator[bytes]:
        """Stream a pinned file. SourceChanged when it is no longer what was pinned, on the first chunk or in
        place of the end; StorageUnavailable when bucket or hub stop answering."""
        ...


def open_source(uri: str, access: SourceAccess, *, repository: Repository = "model") -> Source:
    """The source behind a URI; nothing is asked yet. `repository`: what a `hub:` name stands for."""
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
