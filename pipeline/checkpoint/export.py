"""Writes a stored checkpoint into an ordinary directory."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.errors import InvalidSpec
from pipeline.storage.content import ContentStore


def export_checkpoint(content: ContentStore, ref: CheckpointRef, directory: Path) -> None:
    """Writes every file except this project's own index into an existing directory, with one chunk in
    memory."""
    for file in ref.model_files:
        (directory / file.path).parent.mkdir(parents=True, exist_ok=True)
        with (directory / file.path).open("wb") as written:
            for chunk in content.store.get(content.key(file.blob)):
                written.write(chunk)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a directory to fill, which appears as `path` if everything succeeds, and not at all otherwise.
    Raises InvalidSpec when `path` exists."""
    if path.exists():
        raise InvalidSpec(f"{path} exists; name a directory that is to be made")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield written
        written.chmod(
            0o755
        )  # temporary directories, and weights as transformers saves them, are closed to others
        for saved in written.rglob("*"):
            saved.chmod(0o755 if saved.is_dir() else 0o644)
        written.rename(path)
    finally:
        shutil.rmtree(written, ignore_errors=True)
