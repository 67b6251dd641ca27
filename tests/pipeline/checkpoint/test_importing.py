"""Checkpoints are streamed into the store, and every tensor's place and digest is known afterwards."""

import hashlib
import json
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint import importing
from pipeline.checkpoint.importing import copy_checkpoint, import_checkpoint
from pipeline.checkpoint.scan import TensorScan
from pipeline.errors import SourceChanged, UnsupportedCheckpoint
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.storage import ContentStore, LocalStore
from tests.models import KINDS, Kind, tiny_checkpoint


def imported(directory: Path, store: Path) -> tuple[ContentStore, CheckpointRef, list[int]]:
    content = ContentStore(LocalStore(store))
    source = open_source(f"file:{directory}", SourceAccess(allowed_roots=(directory,)))
    *steps, ref = import_checkpoint(model_pin(source), source, content)
    assert isinstance(ref, CheckpointRef)
    return content, ref, [step for step in steps if isinstance(step, int)]


def index_of(content: ContentStore, ref: CheckpointRef) -> dict[str, TensorEntry]:
    return ref.load(content, TensorIndex).tensors


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shards", [None, "150KB"])
def test_every_tensor_is_found_by_its_index(tmp_path: Path, kind: Kind, shards: str | None) -> None:
    directory = tiny_checkpoint(kind, tmp_path / "model", max_shard_size=shards)
    assert (len(list(directory.glob("*.safetensors"))) > 1) == (shards is not None)
    content, ref, steps = imported(directory, tmp_path / "store")
    assert [file.path for file in ref.files][:-1] == sorted(path.name for path in directory.iterdir())
    for file in ref.files[:-1]:
        assert content.get_bytes(file.blob) == (directory / file.path).read_bytes()
    index, tensors = index_of(content, ref), tensors_of(directory)
    assert index.keys() == tensors.keys()
    for name, entry in index.items():
        stored = content.get_bytes(ref.file(entry.file))
        data = stored[entry.start : entry.start + entry.length]
        assert data == tensors[name].numpy().tobytes()
        assert entry.sha256 == hashlib.sha256(data).hexdigest()
        assert (entry.dtype, entry.shape) == ("F32", tuple(tensors[name].shape))
    assert steps == sorted(steps)
    assert steps[-1] == sum(path.stat().st_size for path in directory.iterdir())


def test_importing_twice_gives_the_same_artifact_and_stores_nothing_new(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model", dtype="bfloat16")
    content, first, _ = imported(directory, tmp_path / "store")
    before = sorted(content.store.list(""), key=lambda info: info.key)
    shutil.copytree(directory, tmp_path / "elsewhere")
    _, second, _ = imported(tmp_path / "elsewhere", tmp_path / "store")
    assert second == first
    assert sorted(content.store.list(""), key=lambda info: info.key) == before
    assert {entry.dtype for entry in index_of(content, first).values()} == {"BF16"}


def test_other_files_are_left_out(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")
    for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors", "training_args.bin"):
        (directory / name).write_bytes(b"left out")
    _, ref, _ = imported(directory, tmp_path / "store")
    kept = {"config.json", "generation_config.json", "model.safetensors", "tensors.json"}
    assert {file.path for file in ref.files} == kept | {"tokenizer.json", "tokenizer_config.json"}


def test_a_file_that_changed_since_it_was_pinned_is_not_imported(tmp_path: Path) -> None:
    directory = tiny_checkpoint("gpt2", tmp_path / "model")
    content = ContentStore(LocalStore(tmp_path / "store"))
    source = open_source(f"file:{directory}", SourceAccess(allowed_roots=(directory,)))
    pin = model_pin(source)
    changed = bytearray((directory / "model.safetensors").read_bytes())
    changed[-1] ^= 1
    (directory / "model.safetensors").write_bytes(changed)
    with pytest.raises(SourceChanged, match=r"model\.safetensors is no longer"):
        list(import_checkpoint(pin, source, content))
    digest = hashlib.sha256(changed).hexdigest()
    assert not any(digest in info.key for info in content.store.list(""))


def test_shards_may_not_share_a_tensor(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model", max_shard_size="150KB")
    shards = sorted(directory.glob("*.safetensors"))
    first, second = (dict(safe_open_all(path)) for path in shards[:2])
    name = next(iter(first))
    save_file(second | {name: first[name]}, shards[1], metadata={"format": "pt"})
    with pytest.raises(
        UnsupportedCheckpoint, match=f"{name} lies in both {shards[0].name} and {shards[1].name}"
    ):
        imported(directory, tmp_path / "store")


def test_the_index_must_agree_with_the_shards(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model", max_shard_size="150KB")
    path = directory / "model.safetensors.index.json"
    original = json.loads(path.read_text())
    shards = sorted(set(original["weight_map"].values()))
    name = next(name for name, shard in original["weight_map"].items() if shard == shards[0])
    for wrong in ({name: shards[1]}, {"model.missing.weight": shards[0]}):
        path.write_text(json.dumps(original | {"weight_map": original["weight_map"] | wrong}))
        with pytest.raises(UnsupportedCheckpoint, match="does not agree with the shards") as caught:
            imported(directory, tmp_path / "store")
        assert caught.value.param == "spec.model.source"
        assert next(iter(wrong)) in caught.value.message


def safe_open_all(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(path, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            yield name, opened.get_tensor(name)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for i in range(0, len(data), size):
        yield data[i : i + size]


def scanned(chunks: Iterable[bytes]) -> dict[str, TensorEntry]:
    scan = TensorScan("x.safetensors")
    for _ in scan.through(chunks):
        pass
    return scan.entries


@pytest.mark.parametrize("size", [1, 3, 7, 8, 64, 1000, 10**6])
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    tensors = {
        "b": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
        "a": torch.tensor([True, False, True]),
        "empty": torch.empty(0, 5, dtype=torch.bfloat16),
        "scalar": torch.tensor(3, dtype=torch.int64),
    }
    data = save(tensors)
    scan = TensorScan("x.safetensors")
    assert b"".join(scan.through(pieces(data, size))) == data
    assert scan.entries.keys() == tensors.keys()
    for name, entry in scan.entries.items():
        raw = data[entry.start : entry.start + entry.length]
        assert raw == tensors[name].reshape(-1).view(torch.uint8).numpy().tobytes()
        assert entry.sha256 == hashlib.sha256(raw).hexdigest()
        assert entry.shape == tuple(tensors[name].shape)


def test_thousands_of_empty_tensors_are_no_recursion() -> None:
    assert len(scanned([save({f"t{i}": torch.empty(0) for i in range(2000)})])) == 2000


def with_header(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor(**fields: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


BROKEN: list[tuple[str, bytes]] = [
    ("header is cut after 0", b""),
    ("header is cut after 4", b"\0\0\0\0"),
    ("header is cut", with_header({})[:-1]),
    ("a header of 0 bytes", struct.pack("<Q", 0)),
    ("a header of 1000000000000 bytes", struct.pack("<Q", 10**12) + b"{}"),
    ("not JSON", with_header(b"{]")),
    ("not JSON", with_header(b'{"t": 1, "t": 2}')),
    ("not JSON", with_header(b"[" * 200_000)),
    ("not JSON", with_header(b"\xff\xfe")),
    ("not a JSON object", with_header([1])),
    ("without dtype", with_header({"t": {"dtype": "F32"}})),
    ("unknown type 'F99'", with_header(tensor(dtype="F99"), bytes(8))),
    ("unknown type", with_header(tensor(dtype=["F32"]), bytes(8))),
    ("shape", with_header(tensor(shape=[-2]), bytes(8))),
    ("shape", with_header(tensor(shape=[True, 2]), bytes(8))),
    ("shape", with_header(tensor(data_offsets=[8, 0]), bytes(8))),
    ("shape", with_header(tensor(data_offsets=[0]), bytes(8))),
    ("takes 12 bytes, not 8", with_header(tensor(shape=[3]), bytes(8))),
    ("begins at byte 8, expected 0", with_header(tensor(data_offsets=[8, 16]), bytes(16))),
    (
        "begins at byte 4, expected 8",
        with_header(tensor() | {"u": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
    ),
    ("ends inside of tensor 't'", with_header(tensor(), bytes(7))),
    ("bytes after its last tensor", with_header(tensor(), bytes(9))),
    ("bytes after its last tensor", with_header({}, b"x")),
    ("header is cut after 1012", b"PK\x03\x04" + bytes(1000) + b"a pickle"),
]


@pytest.mark.parametrize(("reason", "data"), BROKEN)
@pytest.mark.parametrize("size", [5, 10**6])
def test_broken_files_are_refused_by_name(reason: str, data: bytes, size: int) -> None:
    with pytest.raises(
        UnsupportedCheckpoint, match=r"x\.safetensors is no complete safetensors file"
    ) as caught:
        scanned(pieces(data, size))
    assert reason in caught.value.message
    assert caught.value.param == "spec.model.source"


def test_a_broken_file_is_not_stored(tmp_path: Path) -> None:
    directory = tiny_checkpoint("llama", tmp_path / "model")
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UnsupportedCheckpoint, match=r"model\.safetensors .* ends inside of tensor"):
        imported(directory, tmp_path / "store")
    stored = LocalStore(tmp_path / "store").list("")
    assert all(info.size != path.stat().st_size for info in stored)


class Endless:
    """A source whose chunks keep coming, to see who holds them."""

    uri = "file:/endless"

    def __init__(self, read: Callable[[PinnedFile], Iterator[bytes]]) -> None:
        self.read = read

    def names(self) -> tuple[str, ...]:
        return ()

    def pin(self, wanted: Callable[[str], bool]) -> Pin:
        return Pin(source=self.uri, files=())


def test_progress_is_told_while_a_file_is_transferred_and_nobody_waits_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "TELL_SECONDS", 0.01)
    produced = 0

    def read(file: PinnedFile) -> Iterator[bytes]:
        nonlocal produced
        while True:
            produced += 1
            yield bytes(1000)

    pin = Pin(source="file:/endless", files=(PinnedFile(path="vocab.json", size=10**12, tag="stat:1"),))
    steps = copy_checkpoint(pin, Endless(read), ContentStore(LocalStore(tmp_path)))
    told = [next(steps) for _ in range(3)]
    assert isinstance(told[-1], int)
    assert 0 < told[-1] <= produced * 1000
    steps.close()  # type: ignore[attr-defined]
    ended = produced
    assert list(tmp_path.rglob("blobs")) == []
    assert produced == ended
