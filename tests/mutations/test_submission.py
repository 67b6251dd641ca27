"""Whatever files say, they are taken, or refused in words that name a file or field; no traceback comes."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model import resolve_model
from pipeline.resolve.resolve import resolve
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.texts import Calibration
from pipeline.storage import ContentStore, LocalStore
from pipeline.text.documents import read_documents
from pipeline.text.loading import load_tokenizer
from tests.models import tiny_checkpoint, tiny_text
from tests.mutations.made import answered, mutated_bytes, mutated_header, mutated_json

# The same examples every time: a verdict must not hang on chance.
certain = settings(derandomize=True, max_examples=150, database=None)
fewer = settings(certain, max_examples=40)

CONFIG = (
    "quantization_config",
    "auto_map",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "text_config",
)
STRUCTURES = (None, {"drop_blocks": {"kind": "spaced", "num_blocks": 1}}, {"intermediate_size": 64})
KINDS = ("llama", "gpt2", "mixtral", "gemma3_text")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each kind, `sharded/` with an index, and texts."""
    root = tmp_path_factory.mktemp("mutations")
    for kind in KINDS:
        tiny_checkpoint(kind, root / kind)
    tiny_checkpoint("llama", root / "sharded", max_shard_size="100KB")
    tiny_text(root)
    return root


class Replaced:
    """A file with other bytes while a block of code runs."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path, self._data, self._before = path, data, path.read_bytes()

    def __enter__(self) -> None:
        self._path.write_bytes(self._data)

    def __exit__(self, *error: object) -> None:
        self._path.write_bytes(self._before)


def spec(root: Path, kind: str, structure: dict[str, object] | None = None) -> PruneSpec:
    return PruneSpec.model_validate(
        {
            "model": {"source": f"file:{root}/{kind}"},
            "calibration": {"source": f"file:{root}/text.txt", "samples": 2, "sequence_length": 16},
            "prune": {
                "method": {"kind": "wanda"},
                "allocation": {"kind": "owl"},
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "structure": structure,
        }
    )


@certain
@given(data=st.data())
def test_configs(root: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    name = data.draw(st.sampled_from(["config.json", "config.json", "tokenizer_config.json"]))
    path = root / kind / name
    changed = data.draw(mutated_json(path.read_bytes(), more=CONFIG))
    structure = data.draw(st.sampled_from(STRUCTURES))
    asked = spec(root, kind, structure if kind == "llama" else None)
    with Replaced(path, changed):
        answered(lambda: resolve(asked, SourceAccess(allowed_roots=(root,))))


def imported(root: Path, kind: str, store: Path) -> None:
    """What the stage import_model does, and a reading of every tensor."""
    source = open_source(f"file:{root}/{kind}", SourceAccess(allowed_roots=(root,)))
    pin, _ = resolve_model(source, needs_tokenizer=True)
    content = ContentStore(LocalStore(store))
    *_, ref = import_checkpoint(pin, source, content)
    assert isinstance(ref, CheckpointRef)
    reader = CheckpointReader(content, ref)
    for name in reader.index.tensors:
        reader.tensor(name)


@certain
@given(data=st.data())
def test_headers(root: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = root / "llama" / "model.safetensors"
    before = path.read_bytes()
    size = 8 + int.from_bytes(before[:8], "little")
    changed = data.draw(mutated_header(before) | mutated_bytes(before, within=size))
    with Replaced(path, changed):
        answered(lambda: imported(root, "llama", tmp_path_factory.mktemp("store")))


@fewer
@given(data=st.data())
def test_indexes(root: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = root / "sharded" / "model.safetensors.index.json"
    whole = mutated_json(path.read_bytes()) | mutated_bytes(path.read_bytes())
    with Replaced(path, data.draw(whole)):
        answered(lambda: imported(root, "sharded", tmp_path_factory.mktemp("store")))


@fewer
@given(data=st.data())
def test_tokenizer_files(root: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    path = root / "llama" / name
    changed = data.draw(mutated_json(path.read_bytes()) | mutated_bytes(path.read_bytes()))
    source = open_source(f"file:{root}/llama", SourceAccess(allowed_roots=(root,)))

    def tokenized() -> None:
        pin, _ = resolve_model(source, needs_tokenizer=True)
        content = ContentStore(LocalStore(tmp_path_factory.mktemp("store")))
        *_, ref = import_checkpoint(pin, source, content)
        assert isinstance(ref, CheckpointRef)
        tokenizer = load_tokenizer(ref, content)
        ids = tokenizer("a quiet orchard", add_special_tokens=True, verbose=False)["input_ids"]
        assert all(isinstance(token, int) for token in ids)

    with Replaced(path, changed):
        answered(tokenized)


@certain
@given(data=st.data())
def test_texts(root: Path, data: st.DataObject) -> None:
    path = root / data.draw(st.sampled_from(["text.txt", "text.jsonl", "text.parquet"]))
    changed = data.draw(mutated_bytes(path.read_bytes()) | st.binary(max_size=60))
    text = Calibration(source=f"file:{path}", samples=1, sequence_length=8)
    access = SourceAccess(allowed_roots=(root,))

    def read() -> None:
        source = open_source(text.source, access)
        for document in read_documents(text, source.pin(lambda name: True), source, access):
            document.encode()

    with Replaced(path, changed):
        answered(read)
