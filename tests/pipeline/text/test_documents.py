"""Texts become documents, whatever format and place they have."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import (
    InvalidSpec,
    SourceChanged,
    SourceNotAllowed,
    SourceNotFound,
    StorageUnavailable,
)
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.texts import TextSource
from pipeline.text import rows
from pipeline.text.documents import (
    read_documents,
)
from tests.hub import COMMIT, Hub, Repository, cache_repository, serve_hub
from tests.models import tiny_documents, tiny_text


def read(path: Path, **fields: Any) -> list[str]:
    text = TextSource(source=f"file:{path}", **fields)
    access = SourceAccess(allowed_roots=(path.parent,))
    source = open_source(text.source, access)
    return list(read_documents(text, source.pin(lambda name: True), source, access))


class TestReading:
    @pytest.mark.parametrize("ending", [".txt", ".jsonl", ".parquet"])
    def test_all_formats_give_the_same_documents(self, tmp_path: Path, ending: str) -> None:
        documents = tiny_documents()
        documents[3] = "umlauts äöü, 漢字, 🌳 and a line separator \u2028 inside"
        path = tiny_text(tmp_path, documents=documents)
        assert read(path.with_suffix(ending)) == documents

    def test_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "t.txt"
        path.write_bytes(b"\xef\xbb\xbfone\r\n\n   \ntwo\x0bstill two\n three \n\nfour")
        assert read(path) == ["one", "two\x0bstill two", " three ", "four"]
        path.write_bytes(b"")
        assert read(path) == []

    def test_a_whole_file(self, tmp_path: Path) -> None:
        path = tmp_path / "t.txt"
        path.write_bytes(b"one\n\ntwo\n")
        assert read(path, documents="file") == ["one\n\ntwo\n"]
        path.write_bytes(b" \n")
        assert read(path, documents="file") == []

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
    def test_characters_may_be_cut_between_chunks(self, size: int) -> None:
        text = TextSource(source="file:/t/t.txt")
        data = "a ä 漢 🌳\nb\n".encode()
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        assert list(rows.lines(text, chunks)) == ["a ä 漢 🌳", "b", ""]

    @pytest.mark.parametrize(
        ("data", "position"), [(b"abc\xff", 3), (b"\xe4", 0), (b"ab\xe6\xbc", 2), (b"a\xe6b", 1)]
    )
    @pytest.mark.parametrize("size", [1, 100])
    def test_other_encodings_are_refused_at_their_byte(self, data: bytes, position: int, size: int) -> None:
        text = TextSource(source="file:/t/t.txt")
        chunks = [data[i : i + size] for i in range(0, len(data), size)]
        with pytest.raises(InvalidSpec, match=f"not UTF-8: byte {position} is 0x{data[position]:02x}"):
            list(rows.lines(text, chunks))

    @pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
    def test_an_unknown_column_names_the_known_ones(self, tmp_path: Path, ending: str) -> None:
        path = tiny_text(tmp_path).with_suffix(ending)
        with pytest.raises(InvalidSpec, match="no column 'body'; set column to one of: text, number"):
            read(path, column="body")
        with pytest.raises(InvalidSpec, match="column 'number' must hold text, got int"):
            read(path, column="number")

    def test_jsonl_refusals_name_the_line(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        good = json.dumps({"text": "fine"})
        for bad, told in (
            ("{]", "is not JSON"),
            ("[1]", "must be a JSON object"),
            ('{"text": "\\ud800"}', "half of"),
        ):
            path.write_text(f"{good}\n\n{bad}\n")
            with pytest.raises(InvalidSpec, match=f"line 3.*{told}"):
                read(path)
        path.write_text(f'{good}\n{{"text": ""}}\n')
        assert read(path) == ["fine", ""]  # an empty row is a row: WikiText joins them

    def test_a_parquet_file_that_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        path.write_bytes(b"PAR1 nonsense PAR1")
        with pytest.raises(InvalidSpec, match="not a whole parquet file"):
            read(path)
        pq.write_table(pa.table({"text": ["a", None]}), path)
        with pytest.raises(InvalidSpec, match="row 2: column 'text' must hold text"):
            read(path)

    def test_a_changed_text_is_noticed(self, tmp_path: Path) -> None:
        path = tiny_text(tmp_path)
        text = TextSource(source=f"file:{path}")
        access = SourceAccess(allowed_roots=(tmp_path,))
        source = open_source(text.source, access)
        pin = source.pin(lambda name: True)
        path.write_text(path.read_text().replace("apple", "berry"))
        with pytest.raises(SourceChanged):
            next(read_documents(text, pin, source, access))


CARD = """---
configs:
- config_name: en
  data_files: [{split: train, path: "en/*.jsonl"}, {split: test, path: "test.jsonl"}]
- config_name: outside
  data_files: [{split: train, path: "PATH"}]
---
"""


class TestHubDatasets:
    """Against a stand-in for the hub, and against a cache in the layout of its client."""

    @pytest.fixture
    def repository(self, tmp_path: Path) -> Repository:
        data = tiny_text(tmp_path / "texts").with_suffix(".jsonl").read_bytes()
        outside = tmp_path / "outside.jsonl"
        outside.write_bytes(data)
        card = CARD.replace("PATH", str(outside)).encode()
        return Repository({"README.md": card, "en/a.jsonl": data, "en/b.jsonl": data, "test.jsonl": data[:0]})

    @pytest.fixture
    def hub(self, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
        import datasets

        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(
            datasets.config, "HF_ENDPOINT", datasets.config.HF_ENDPOINT
        )  # put back afterwards
        with serve_hub() as served:
            served.datasets["org/texts"] = repository
            yield served

    @pytest.fixture(params=["online", "offline"])
    def access(
        self, request: pytest.FixtureRequest, hub: Hub, repository: Repository, tmp_path: Path
    ) -> SourceAccess:
        if request.param == "online":
            return SourceAccess(hub_endpoint=hub.endpoint)
        cache_repository(tmp_path / "cache", "org/texts", repository, kind="dataset")
        return SourceAccess(hub_cache_dir=tmp_path / "cache", hub_offline=True)

    def rows(self, access: SourceAccess, **fields: Any) -> list[str]:
        text = TextSource(source="hub:org/texts", **fields)
        pin = open_source(text.source, access, repository="dataset").pin(lambda name: True)
        assert pin.source == f"hub:org/texts@{COMMIT}"
        return list(read_documents(text, pin, open_source(pin.source, access), access))

    def test_rows(self, access: SourceAccess) -> None:
        assert self.rows(access, config="en") == tiny_documents() * 2
        assert self.rows(access, config="en", split="train[:3]") == tiny_documents()[:3]

    def test_refusals_list_what_there_is(self, access: SourceAccess) -> None:
        with pytest.raises(InvalidSpec, match=r"Available splits: .*train"):
            self.rows(access, config="en", split="validation")
        with pytest.raises(InvalidSpec, match="en"):
            self.rows(access, config="de")
        with pytest.raises(InvalidSpec, match="text, number"):
            self.rows(access, config="en", column="body")
        with pytest.raises(InvalidSpec, match="first N rows"):
            self.rows(access, config="en", split="train[10%:]")

    def test_data_from_elsewhere_is_refused(self, access: SourceAccess) -> None:
        with pytest.raises((SourceNotAllowed, InvalidSpec), match=r"outside of its|don't belong"):
            self.rows(access, config="outside")

    def test_an_incomplete_cache_is_told(self, hub: Hub, tmp_path: Path) -> None:
        access = SourceAccess(hub_cache_dir=tmp_path / "empty", hub_offline=True)
        online = SourceAccess(hub_endpoint=hub.endpoint)
        pin = open_source("hub:org/texts", online, repository="dataset").pin(lambda name: True)
        text = TextSource(source="hub:org/texts", config="en")
        with pytest.raises(SourceNotFound, match="hub cache"):
            list(read_documents(text, pin, open_source(pin.source, access), access))

    def test_a_hub_that_fails_may_be_tried_again(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        access = SourceAccess(hub_endpoint=hub.endpoint)
        text = TextSource(source="hub:org/texts", config="en")
        pin = open_source(text.source, access, repository="dataset").pin(lambda name: True)
        del hub.datasets["org/texts"]
        with pytest.raises(SourceNotAllowed, match="SECATEUR_HUB_TOKEN"):
            list(read_documents(text, pin, open_source(pin.source, access), access))
        hub.status = 500
        with pytest.raises(StorageUnavailable) as caught:
            list(read_documents(text, pin, open_source(pin.source, access), access))
        assert caught.value.retryable
