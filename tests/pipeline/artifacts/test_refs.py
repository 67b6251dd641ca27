"""Artifacts know which documents they hold, and under which paths."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from pipeline.allocations.tournament import Score
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import (
    ArtifactRef,
    CheckpointRef,
    CountsRef,
    KeepRef,
    ManifestRef,
    ScoreRef,
    VocabularyRef,
)
from pipeline.artifacts.sparsity import BlockExperts, ExpertTable, SparsityTable
from pipeline.artifacts.tensor_index import TensorIndex
from pipeline.artifacts.vocabulary import CorpusSize, HeldOutDocuments, KeptTokens
from pipeline.canonical import canonical_json
from pipeline.storage.content import ContentStore
from pipeline.storage.local import LocalStore

SCORE = Score(loss=1.0, perplexity=2.7, tokens=10)
TABLE = SparsityTable(linears=())
EXPERTS = ExpertTable(minimum_tokens=32, blocks=(BlockExperts(block=0, tokens=(1, 2)),))


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(LocalStore(tmp_path))


def test_what_is_made_is_loaded(store: ContentStore) -> None:
    made = ScoreRef.made(store, SCORE)
    assert made.load(store, Score) == SCORE
    assert store.get_bytes(made.file("score.json")) == canonical_json(SCORE)


def test_files_are_ordered_by_path_whatever_comes_first(store: ContentStore) -> None:
    blocks = [FileRef(path=f"keep-0000{i}.safetensors", blob=store.put_bytes(b"x")) for i in (1, 0)]
    made = KeepRef.made(store, TABLE, EXPERTS, files=blocks)
    assert made == KeepRef.made(store, EXPERTS, TABLE, files=reversed(blocks))
    assert [file.path for file in made.files] == [
        "experts.json",
        "keep-00000.safetensors",
        "keep-00001.safetensors",
        "sparsity.json",
    ]


def test_a_document_may_be_missing(store: ContentStore) -> None:
    made = KeepRef.made(store, TABLE)
    assert made.find(store, SparsityTable) == TABLE
    assert made.find(store, ExpertTable) is None
    with pytest.raises(KeyError, match=r"'experts.json' is not among \['sparsity.json'\]"):
        made.load(store, ExpertTable)


def test_a_document_of_another_kind_is_refused(store: ContentStore) -> None:
    with pytest.raises(KeyError, match=r"ScoreRef holds no SparsityTable; .* \['Score'\]"):
        ScoreRef.made(store, TABLE)
    with pytest.raises(KeyError, match="ScoreRef holds no KeptTokens"):
        ScoreRef.made(store, SCORE).find(store, KeptTokens)


def test_the_index_of_tensors_is_no_file_of_the_model(store: ContentStore) -> None:
    config = FileRef(path="config.json", blob=store.put_bytes(b"{}"))
    made = CheckpointRef.made(store, TensorIndex(tensors={}), files=[config])
    assert made.model_files == (config,)
    assert len(made.files) == 2


def test_a_manifest_lies_in_its_directory(store: ContentStore) -> None:
    made = ManifestRef(files=(ManifestRef.put(store, Manifest(files=())),), prefix="published/tiny-1")
    assert made.key == "published/tiny-1/manifest.json"


def test_counts_are_stored_as_plain_lists_and_mappings(store: ContentStore) -> None:
    made = CountsRef.made(store, CorpusSize(documents=2, bytes=9), HeldOutDocuments(("a", "ü")))
    assert store.get_bytes(made.file("counts.json")) == b'{"bytes":9,"documents":2}'
    assert store.get_bytes(made.file("held_out.json")) == '["a","ü"]'.encode()
    assert made.load(store, HeldOutDocuments).root == ("a", "ü")


@pytest.mark.parametrize("kind", get_args(get_args(ArtifactRef)[0]))
def test_a_document_has_one_path_in_an_artifact(kind: type[CheckpointRef]) -> None:
    documents: list[type[BaseModel]] = list(kind.content.values())
    assert [kind.path_of(document) for document in documents] == list(kind.content)


def test_what_stayed_of_a_vocabulary_is_told_apart() -> None:
    assert VocabularyRef.path_of(KeptTokens) == "vocabulary.json"
