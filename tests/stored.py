"""A checkpoint of a test, in a directory and in a store."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config
from pipeline.storage import ContentStore


@dataclass(frozen=True)
class Stored:
    """A checkpoint in a directory and in a store."""

    directory: Path
    content: ContentStore
    ref: CheckpointRef

    @property
    def reader(self) -> CheckpointReader:
        """Reads it from the store."""
        return CheckpointReader(self.content, self.ref)

    @property
    def config(self) -> dict[str, JsonValue]:
        """Its config.json with the fields of each block."""
        return full_config(self.reader.config)
