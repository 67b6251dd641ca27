"""Every directory at or below a place, as listings tell it: no file is opened."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pipeline.canonical import digest_of
from pipeline.errors import InvalidSpec
from pipeline.sources.access import SourceAccess, open_source


@dataclass(frozen=True)
class ListedFile:
    """One file. `version`: the store's own mark of its content, an ETag or a modification time."""

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class Directory:
    """The files directly inside a directory or prefix, by name."""

    uri: str
    files: tuple[ListedFile, ...]

    @property
    def names(self) -> frozenset[str]:
        """Names of the files."""
        return frozenset(file.name for file in self.files)

    @property
    def listing(self) -> str:
        """Digest of what was listed: as long as it stays, nothing needs to be looked at again."""
        return digest_of([[file.name, file.size, file.version] for file in self.files])


@runtime_checkable
class Tree(Protocol):
    """A source below which others may lie."""

    def tree(self) -> tuple[Directory, ...]:
        """The directories that hold files, this one included, in order of their paths; none when nothing
        lies here yet. Raises SourceNotFound, SourceNotAllowed, SourceUnreachable."""
        ...

    def check(self) -> None:
        """Raise SourceNotAllowed when it may never be read; asks no server."""
        ...


def open_tree(uri: str, access: SourceAccess) -> Tree:
    """The tree below a `file:` or `s3:` source; nothing is asked yet. Raises InvalidSpec."""
    source = open_source(uri, access)
    if not isinstance(source, Tree):
        raise InvalidSpec(f"{uri} is one repository, and nothing arrives below it; write s3://bucket/prefix")
    return source
