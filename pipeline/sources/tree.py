"""Every directory at or below a place, from listings alone: no file is opened."""

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
        """The names of the files."""
        return frozenset(file.name for file in self.files)

    @property
    def listing(self) -> str:
        """The digest of the listing: while it is unchanged, nothing needs to be examined again."""
        return digest_of([[file.name, file.size, file.version] for file in self.files])


@runtime_checkable
class Tree(Protocol):
    """A source below which others may lie."""

    def tree(self) -> tuple[Directory, ...]:
        """Returns the directories that contain files, this one included, in order of their paths; none if
        nothing exists here yet. Raises SourceNotFound, SourceNotAllowed, SourceUnreachable."""
        ...

    def check(self) -> None:
        """Raises SourceNotAllowed when it may never be read; contacts no server."""
        ...


def open_tree(uri: str, access: SourceAccess) -> Tree:
    """Opens the tree below a `file:` or `s3:` source, without contacting it. Raises InvalidSpec."""
    source = open_source(uri, access)
    if not isinstance(source, Tree):
        raise InvalidSpec(f"{uri} is one repository, and nothing arrives below it; write s3://bucket/prefix")
    return source
