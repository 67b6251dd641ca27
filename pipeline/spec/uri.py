"""Sources of models and texts as URIs: `file:/path`, `s3://bucket/key`, `hub:org/name@revision`."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

Scheme = Literal["file", "s3", "hub"]
EXAMPLES = "file:/models/llama, s3://bucket/models/llama, hub:org/name@revision"


class SourceKind(Enum):
    """The kind of content that a source holds, which says how it is pinned. It marks the fields of a spec
    that name sources."""

    MODEL = "model"
    TEXT = "text"
    MASKS = "masks"
    TASK_FILES = "task files"


@dataclass(frozen=True)
class Uri:
    """A parsed source. `location` is a path, `bucket/key`, or `org/name`; only the hub has revisions."""

    scheme: Scheme
    location: str
    revision: str | None = None

    def __str__(self) -> str:
        if self.scheme == "s3":
            return f"s3://{self.location}"
        return f"{self.scheme}:{self.location}" + (f"@{self.revision}" if self.revision else "")


def parse_uri(text: str) -> Uri:
    """Parse a source. Raises ValueError that names the allowed forms."""
    scheme, colon, rest = text.partition(":")
    if not colon or not rest:
        raise ValueError(f"got {text!r}; a source is one of {EXAMPLES}")
    if any(ord(c) < 32 for c in text):
        raise ValueError("a source holds no control characters")
    if "@" in rest.removeprefix("//").partition("/")[0] and scheme != "hub":  # it is not repeated here
        raise ValueError(
            f"a source holds no user and password (before an @); the service has those of its storage by "
            f"SECATEUR_S3_ACCESS_KEY and SECATEUR_S3_SECRET_KEY, and a source is one of {EXAMPLES}"
        )
    if scheme == "file":
        path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
        if not path.startswith("/"):
            raise ValueError(
                f"got {text!r}; a file: source needs an absolute path, such as file:/models/llama"
            )
        if ".." in path.split("/"):
            raise ValueError(
                f"got {text!r}; a file: source may not contain '..': write the path that it leads to (in a "
                f"spec's file, also a path from the file's directory, such as file:../models/llama)"
            )
        return Uri("file", path.rstrip("/") or "/")
    if scheme == "s3":
        location = rest.removeprefix("//").strip("/")
        if not rest.startswith("//") or not location:
            raise ValueError(f"got {text!r}; write s3://bucket/prefix")
        return Uri("s3", location)
    if scheme == "hub":
        name, _, revision = rest.partition("@")
        if not name or name.count("/") > 1 or name.startswith("/") or name.endswith("/"):
            raise ValueError(f"got {text!r}; write hub:org/name or hub:org/name@revision")
        return Uri("hub", name, revision or None)
    raise ValueError(f"unknown scheme {scheme!r}; a source is one of {EXAMPLES}")


def file_uri(path: Path) -> str:
    """Returns the source of a file or directory on this machine, whatever its path starts from. `..` leaves
    the directory that a link points at, as it does for the system; other links keep their names."""
    if ".." in path.parts:
        path = path.resolve() if path.name == ".." else path.parent.resolve() / path.name
    return f"file:{path.absolute()}"


def _normalised(text: str) -> str:
    return str(parse_uri(text))


SourceUri = Annotated[str, AfterValidator(_normalised)]
ModelUri = Annotated[SourceUri, SourceKind.MODEL]
TextUri = Annotated[SourceUri, SourceKind.TEXT]
MasksUri = Annotated[SourceUri, SourceKind.MASKS]
TaskFilesUri = Annotated[SourceUri, SourceKind.TASK_FILES]
