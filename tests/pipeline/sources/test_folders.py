"""The folder with chat templates belongs to a checkpoint, wherever that lies; other folders are named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SourceNotAllowed
from pipeline.sources import SourceAccess, open_source
from pipeline.sources.access import Source
from pipeline.sources.pins import PinnedFile
from pipeline.spec.uri import file_uri, parse_uri
from pipeline.storage.base import is_key
from pipeline.storage.s3 import S3Store
from pipeline.storage.slug import slug
from tests.hub import Repository, cache_repository, serve_hub
from tests.servers import S3Server

RAG = "additional_chat_templates/rag.jinja"
FILES = {
    "config.json": b"{}",
    RAG: b"RAG",
    "onnx/model.onnx": b"x",
    "additional_chat_templates/deep/x.jinja": b"x",
}


def check(source: Source) -> None:
    assert source.names() == (RAG, "config.json")
    assert source.folders() == ("additional_chat_templates", "onnx")
    pin = source.pin(lambda name: True)
    assert [file.path for file in pin.files] == [RAG, "config.json"]
    assert b"".join(source.read(pin.files[0])) == b"RAG"


def test_in_a_directory(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    access = SourceAccess(allowed_roots=(tmp_path,))
    source = open_source(f"file:{tmp_path}/model", access)
    check(source)
    assert open_source(f"file:{tmp_path}/model/config.json", access).folders() == ()
    for name in ("onnx/model.onnx", "additional_chat_templates/..", "../model/config.json"):
        with pytest.raises(SourceNotAllowed):
            list(source.read(PinnedFile(path=name, size=1, tag="stat:0")))


def test_templates_outside_of_the_roots_stay_outside(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "roots" / "model").mkdir(parents=True)
    (tmp_path / "roots" / "model" / "additional_chat_templates").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceNotAllowed):
        open_source(f"file:{tmp_path}/roots/model", SourceAccess(allowed_roots=(tmp_path / "roots",))).names()


def test_on_a_hub_and_in_its_cache(tmp_path: Path) -> None:
    with serve_hub() as hub:
        hub.models["org/tiny"] = Repository(FILES)
        check(
            open_source("hub:org/tiny", SourceAccess(hub_endpoint=hub.endpoint, hub_cache_dir=tmp_path / "a"))
        )
    cache_repository(tmp_path / "b", "org/tiny", Repository(FILES))
    check(open_source("hub:org/tiny", SourceAccess(hub_cache_dir=tmp_path / "b", hub_offline=True)))


def test_in_a_bucket(seaweedfs_server: S3Server) -> None:
    seaweedfs_server.make_bucket("templates")
    options = seaweedfs_server.options
    store = S3Store("templates", "model", options)
    for name, content in FILES.items():
        store.put(name, [content])
    check(open_source("s3://templates/model", SourceAccess(s3=options)))


@given(st.text(max_size=300))
def test_any_name_has_a_slug(name: str) -> None:
    made = slug(name)
    assert is_key(f"published/{made}-0123456789ab")
    assert slug(made) == made
    if is_key(name) and "/" not in name and " " not in name and len(name) < 50 and name.isalnum():
        assert made == name


@pytest.mark.parametrize("name", ["model", "Llama-3.1-8B_v2.0", "-x", "a.b"])
def test_names_that_are_fine_stay(name: str) -> None:
    assert slug(name) == name


def test_names_that_lose_something_stay_apart() -> None:
    names = ["a b", "a-b", "a+b", "ä", "ö", "", ".", "..", "x" * 201, "x" * 202]
    assert len({slug(name) for name in names}) == len(names)


def test_a_path_becomes_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    monkeypatch.chdir(tmp_path)
    assert file_uri(Path("model")) == f"file:{tmp_path}/model"
    assert file_uri(Path("link")) == f"file:{tmp_path}/link"  # links keep their names
    assert file_uri(Path("link/../x")) == f"file:{tmp_path}/real/x"
    assert file_uri(Path("real/..")) == f"file:{tmp_path}"
    with pytest.raises(ValueError, match=r"may not contain '\.\.': write the path"):
        parse_uri("file:/models/../x")
