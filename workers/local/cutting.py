"""A checkpoint on its way to a smaller one: read into a store that goes when the command ends."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.export import new_directory
from pipeline.checkpoint.importing import Remark, import_checkpoint
from pipeline.resolve.model import resolve_model
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.uri import file_uri
from pipeline.storage import ContentStore, LocalStore

ACCESS = SourceAccess(allowed_roots=(Path("/"),))  # its user's own files


@dataclass(frozen=True)
class Cutting:
    """The imported checkpoint, how many blocks it has, and where the smaller one is written."""

    content: ContentStore
    dense: CheckpointRef
    blocks: int
    written: Path
    progress: Progress


@contextmanager
def cutting(directory: Path, out: Path, *, needs_tokenizer: bool) -> Iterator[Cutting]:
    """Import the checkpoint, with a bar. `out` appears when all went well, and not at all otherwise."""
    source = open_source(file_uri(directory), ACCESS)
    pin, facts = resolve_model(source, needs_tokenizer=needs_tokenizer)
    for note in facts.notes:
        sys.stderr.write(f"note: {note}\n")
    with (
        new_directory(out) as written,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.store.", dir=out.absolute().parent) as store,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        content = ContentStore(LocalStore(Path(store)))
        task = progress.add_task("reads", total=pin.size)
        for step in import_checkpoint(pin, source, content):
            if isinstance(step, int):
                progress.update(task, completed=step)
            elif isinstance(step, Remark):
                progress.console.print(f"note: {step.text}", soft_wrap=True, highlight=False)
            else:
                dense = step
        yield Cutting(content, dense, facts.blocks, written, progress)
