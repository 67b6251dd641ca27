"""Imports a pinned checkpoint into the content store, in one pass over its bytes.

Each file streams from its source into the store. On the way a safetensors file's header is read, every tensor
is hashed, and its numbers are looked at, so that nothing is fetched twice and memory holds one chunk.
"""

from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.remarks import ImportRemarks
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.compare import compare
from pipeline.checkpoint.config_json import CONFIGS, TIED, loadable, loadable_bytes, parse_config, written
from pipeline.checkpoint.header import facts_apart, read_headers
from pipeline.checkpoint.language_model import language_config, with_language
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.leftovers import remark_on_ahead
from pipeline.checkpoint.quantized import codes_of
from pipeline.checkpoint.scan import TensorScan
from pipeline.checkpoint.slices import parts_of_an_expert
from pipeline.checkpoint.ties import find_ties
from pipeline.errors import SourceChanged
from pipeline.sources.access import Source
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.storage.content import BlobRef, ContentStore

TELL_SECONDS = 0.5


@dataclass(frozen=True)
class Remark:
    """A sentence for everyone who reads the results of the import."""

    text: str


def import_checkpoint(
    pin: Pin, source: Source, content: ContentStore
) -> Iterator[int | Remark | CheckpointRef]:
    """Yields the number of bytes fetched so far, about twice a second, and finally the checkpoint.

    The headers are compared with the model before any weight is fetched (compare.py). Raises SourceChanged;
    UnsupportedCheckpoint for checkpoints that are not their model, broken safetensors files, and NaN or
    infinite weights.
    """
    described = read_headers(pin, source)
    config = read_config(pin, source)
    compared = compare(config, described, where=pin.source)
    alone = language_config(config)
    row = row_for(str(alone["model_type"]))
    left_out = remark_on_ahead(row, compared.ahead, stay=False)
    yield from (Remark(text) for text in (*compared.remarks, left_out) if text is not None)
    copied = None
    sliced = {name: parts for name in described if (parts := parts_of_an_expert(row, name))}
    for step in copy_checkpoint(pin, source, content, unread=compared.ignored, sliced=sliced):
        if isinstance(step, int):
            yield step
        else:
            copied = step
    assert copied is not None
    ref, tensors = copied
    if {name: (entry.dtype, entry.shape) for name, entry in tensors.items()} != {
        name: (facts.dtype, facts.shape) for name, facts in facts_apart(row, described).items()
    }:
        raise SourceChanged(f"{pin.source} changed while it was imported; submit the job again")
    if codes_of(row, described):
        from pipeline.checkpoint.dequantizing import dequantized

        ref, tensors = dequantized(content, ref, tensors, row)
    ties = find_ties(compared.same, tensors, partial(_equal, content, ref, tensors))
    if row.decoder is not None:
        # There the field says how outputs are scaled, and stays; a head of its own is loaded in any case.
        ties = replace(ties, untied=())
    yield from (Remark(text) for text in ties.remarks)
    changes: dict[str, JsonValue] = {TIED: False} if ties.untied else {}
    remarks = list(ties.remarks)
    if row.ahead is not None and left_out is not None:
        changes |= dict.fromkeys(row.stated(alone, row.ahead.field), 0)
        remarks.append(left_out)
    gone = {*ties.copies, *compared.ahead}
    kept = {name: entry for name, entry in tensors.items() if name not in gone}
    yield _settled(ref, kept, content, changes=changes, remarks=tuple(remarks))


def read_config(pin: Pin, source: Source) -> dict[str, JsonValue]:
    """Returns the config.json of a pinned checkpoint, as transformers loads it."""
    file = next(file for file in pin.files if file.path == CONFIG_JSON)
    content = parse_config(b"".join(source.read(file)))
    assert isinstance(content, dict), "resolve has read it"
    return loadable(CONFIG_JSON, content)[0]


def copy_checkpoint(
    pin: Pin,
    source: Source,
    content: ContentStore,
    *,
    unread: Collection[str] = (),
    sliced: Mapping[str, int] | None = None,
) -> Iterator[int | tuple[CheckpointRef, dict[str, TensorEntry]]]:
    """Yields the number of bytes fetched so far, and finally the files as they are, with every tensor.
    `unread`, `sliced`: see TensorScan."""
    done = 0
    files: list[FileRef] = []
    tensors: dict[str, TensorEntry] = {}
    for file in pin.files:
        is_weights = file.path.endswith(".safetensors")
        scan = TensorScan(file.path, unread=unread, sliced=sliced) if is_weights else None
        for step in _transferred(file, source, content, scan):
            if isinstance(step, BlobRef):
                files.append(FileRef(path=file.path, blob=step))
            else:
                yield done + step
        done += file.size
        if scan is not None:
            tensors |= scan.entries
    files = sorted((_loadable(file, content) for file in files), key=lambda file: file.path)
    yield CheckpointRef(files=tuple(files)), tensors


def _equal(
    content: ContentStore, ref: CheckpointRef, tensors: Mapping[str, TensorEntry], one: str, other: str
) -> bool:
    """Tells whether two tensors have the same values in the first one's type."""
    import torch

    from pipeline.checkpoint.reader import read_tensor

    first, second = (
        read_tensor(content, ref.file(tensors[name].file), tensors[name], name=name) for name in (one, other)
    )
    return torch.equal(first, second.to(first.dtype))


def _settled(
    ref: CheckpointRef,
    tensors: Mapping[str, TensorEntry],
    content: ContentStore,
    *,
    changes: Mapping[str, JsonValue],
    remarks: tuple[str, ...],
) -> CheckpointRef:
    """Returns the checkpoint with its index and `remarks`, and with fields of config.json that are true of
    it."""
    files = list(ref.files)
    if changes:
        config = parse_config(content.get_bytes(ref.file(CONFIG_JSON)))
        assert isinstance(config, dict), "resolve has read it"
        files = [file for file in files if file.path != CONFIG_JSON]
        alone = language_config(config)
        changed = content.put_bytes(written(with_language(config, alone, {**alone, **changes})))
        files.append(FileRef(path=CONFIG_JSON, blob=changed))
    files.append(CheckpointRef.put(content, TensorIndex(tensors=dict(tensors))))
    if remarks:
        files.append(CheckpointRef.put(content, ImportRemarks(sentences=remarks)))
    own = CheckpointRef.content
    return CheckpointRef(files=tuple(sorted(files, key=lambda file: (file.path in own, file.path))))


def _transferred(
    file: PinnedFile, source: Source, content: ContentStore, scan: TensorScan | None
) -> Iterator[int | BlobRef]:
    """Yields the number of bytes fetched of one file, and finally its blob. A thread transfers, so that this
    one can report."""
    fetched, abandoned = 0, False

    def counted() -> Iterator[bytes]:
        nonlocal fetched
        for chunk in source.read(file):
            if abandoned:
                raise InterruptedError("the import of this file was abandoned")
            fetched += len(chunk)
            yield chunk

    with ThreadPoolExecutor(1, thread_name_prefix="import") as pool:
        stored = pool.submit(content.put_stream, counted() if scan is None else scan.through(counted()))
        try:
            while not wait([stored], timeout=TELL_SECONDS).done:
                yield fetched
        finally:
            abandoned = True
    yield fetched
    yield stored.result()


def _loadable(file: FileRef, content: ContentStore) -> FileRef:
    """Returns a config as transformers loads it, and any other file as it is."""
    if file.path not in CONFIGS:
        return file
    data = content.get_bytes(file.blob)
    made = loadable_bytes(file.path, data)
    return file if made == data else FileRef(path=file.path, blob=content.put_bytes(made))
