"""Imports checkpoints into a store, as the stage import_model does."""

from collections.abc import Collection
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.checkpoint.importing import copy_checkpoint, import_checkpoint
from pipeline.resolve.model import model_pin
from pipeline.sources import Source, SourceAccess, open_source
from pipeline.storage import ContentStore, LocalStore


def imported(directory: Path, store: Path) -> tuple[ContentStore, CheckpointRef]:
    """Imports a Hugging Face directory into a local store; returns the store and the checkpoint."""
    source, content = _opened(directory, store)
    steps = list(import_checkpoint(model_pin(source), source, content))
    assert isinstance(steps[-1], CheckpointRef)
    return content, steps[-1]


def stored_unseen(directory: Path, store: Path, *, unread: Collection[str]) -> CheckpointRef:
    """Stores a directory as it is, with NaN in the tensors `unread`: an import would refuse it."""
    source, content = _opened(directory, store)
    *_, last = copy_checkpoint(model_pin(source), source, content, unread=unread)
    assert not isinstance(last, int)
    ref, tensors = last
    index = CheckpointRef.put(content, TensorIndex(tensors=tensors))
    return CheckpointRef(files=(*ref.files, index))


def _opened(directory: Path, store: Path) -> tuple[Source, ContentStore]:
    access = SourceAccess(allowed_roots=(directory.parent,))
    return open_source(f"file:{directory}", access), ContentStore(LocalStore(store))
