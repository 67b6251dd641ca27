"""The list of files that belong to a published directory."""

from pipeline.canonical import Frozen


class ManifestEntry(Frozen):
    """One published file."""

    path: str
    size: int
    sha256: str


class Manifest(Frozen):
    """The files of a published directory. It is written last: without it nothing was published."""

    files: tuple[ManifestEntry, ...]
