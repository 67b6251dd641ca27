"""The directory in which huggingface_hub keeps what it downloaded.

<cache>/models--org--name/refs/main                 the commit that a branch or tag stood at
<cache>/models--org--name/snapshots/<commit>/...    links to ../../blobs/<SHA-256 or git object id>
"""

import os
import re
from pathlib import Path

import huggingface_hub

from pipeline.sources.access import Repository
from pipeline.sources.pins import PinnedFile
from pipeline.sources.tags import object_tag, sha256_tag
from pipeline.storage.base import CHUNK_BYTES


class HubCache:
    """The part of the cache that belongs to one repository."""

    def __init__(self, repository: Repository, name: str, cache_dir: Path | None) -> None:
        root = Path(huggingface_hub.constants.HF_HUB_CACHE) if cache_dir is None else cache_dir
        self.folder = root / "--".join([f"{repository}s", *name.split("/")])

    def commit(self, revision: str) -> str | None:
        """The commit of a revision; None when there is no snapshot of it."""
        commit = revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            ref = self.folder / "refs" / revision
            if ".." in ref.parts or not ref.is_file():
                return None
            commit = ref.read_text(encoding="utf-8").strip()
        known = re.fullmatch(r"[0-9a-f]{40}", commit) and self.snapshot(commit).is_dir()
        return commit if known else None

    def snapshot(self, commit: str) -> Path:
        """The directory of one commit."""
        return self.folder / "snapshots" / commit

    def path(self, revision: str, name: str) -> Path | None:
        """A cached file; None when it is not there."""
        commit = self.commit(revision)
        path = None if commit is None else self.snapshot(commit) / name
        return path if path is not None and path.is_file() else None

    def files(self, commit: str) -> tuple[PinnedFile, ...]:
        """The files directly inside a snapshot, with the tags that the hub itself would tell."""
        snapshot = self.snapshot(commit)
        names = sorted(entry.name for entry in os.scandir(snapshot) if entry.is_file())
        return tuple(_pinned(snapshot / name) for name in names)


def _pinned(path: Path) -> PinnedFile:
    """Links carry the content's hash in their target's name; where there are no links, it is hashed."""
    tag = object_tag(Path(os.path.realpath(path)).name)
    if tag is None:
        with path.open("rb") as file:
            tag = sha256_tag(iter(lambda: file.read(CHUNK_BYTES), b""))
    return PinnedFile(path=path.name, size=path.stat().st_size, tag=tag)
