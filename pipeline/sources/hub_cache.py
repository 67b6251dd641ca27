"""The directory in which huggingface_hub keeps its downloads.

<cache>/models--org--name/refs/main                 the commit of a branch or tag at the time of download
<cache>/models--org--name/snapshots/<commit>/...    links to ../../blobs/<SHA-256 or git object id>
"""

import os
import re
from pathlib import Path

import huggingface_hub

from pipeline.sources.access import TEMPLATE_FOLDER, Repository
from pipeline.sources.pins import PinnedFile
from pipeline.sources.tags import object_tag, sha256_tag
from pipeline.storage.base import CHUNK_BYTES


class HubCache:
    """The part of the cache that belongs to one repository."""

    def __init__(self, repository: Repository, name: str, cache_dir: Path | None) -> None:
        root = Path(huggingface_hub.constants.HF_HUB_CACHE) if cache_dir is None else cache_dir
        self.folder = root / "--".join([f"{repository}s", *name.split("/")])

    def commit(self, revision: str) -> str | None:
        """Returns the commit of a revision; None when there is no snapshot of it."""
        commit = revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            ref = self.folder / "refs" / revision
            if ".." in ref.parts or not ref.is_file():
                return None
            commit = ref.read_text(encoding="utf-8").strip()
        known = re.fullmatch(r"[0-9a-f]{40}", commit) and self.snapshot(commit).is_dir()
        return commit if known else None

    def snapshot(self, commit: str) -> Path:
        """Returns the directory of one commit."""
        return self.folder / "snapshots" / commit

    def path(self, revision: str, name: str) -> Path | None:
        """Returns a cached file; None when it does not exist."""
        commit = self.commit(revision)
        path = None if commit is None else self.snapshot(commit) / name
        return path if path is not None and path.is_file() else None

    def files(self, commit: str) -> tuple[PinnedFile, ...]:
        """Returns the files of a snapshot, with the tags that the hub itself would give."""
        snapshot = self.snapshot(commit)
        names = [entry.name for entry in os.scandir(snapshot) if entry.is_file()]
        templates = snapshot / TEMPLATE_FOLDER
        if templates.is_dir():
            inside = [entry.name for entry in os.scandir(templates) if entry.is_file()]
            names += [f"{TEMPLATE_FOLDER}/{name}" for name in inside]
        return tuple(_pinned(snapshot / name, name) for name in sorted(names))

    def folders(self, commit: str) -> tuple[str, ...]:
        """Returns the names of the folders directly inside a snapshot."""
        return tuple(sorted(entry.name for entry in os.scandir(self.snapshot(commit)) if entry.is_dir()))


def _pinned(path: Path, name: str) -> PinnedFile:
    """Pins a file. The name of a link's target contains the content's hash; without links, the file is
    hashed."""
    tag = object_tag(Path(os.path.realpath(path)).name)
    if tag is None:
        with path.open("rb") as file:
            tag = sha256_tag(iter(lambda: file.read(CHUNK_BYTES), b""))
    return PinnedFile(path=name, size=path.stat().st_size, tag=tag)
