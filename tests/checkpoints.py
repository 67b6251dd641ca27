"""Imports checkpoints into a store, as the stage import_model does."""

from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.storage import ContentStore, LocalStore


def imported(directory: Path, store: Path) -> tuple[ContentStore, CheckpointRef]:
    """Imports a Hugging Face directory into a local store; returns the store and the checkpoint."""
    access = SourceAccess(allowed_roots=(directory.parent,))
    source = open_source(f"file:{directory}", access)
    content = ContentStore(LocalStore(store))
    pin = model_pin(source)
    steps = list(import_checkpoint(pin, source, content))
    assert isinstance(steps[-1], CheckpointRef)
    return content, steps[-1]
