"""Packed texts, texts under other names than their kind, and chats."""

import bz2
import gzip
import json
import lzma
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidRequest, InvalidSpec, SourceChanged, TextTooShort
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.resolve import resolve, resolve_text
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.texts import Calibration, TextSource
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.unpacking import unpacked
from tests.hub import Repository, serve_hub
from tests.models import tiny_checkpoint, tiny_documents, tiny_text, tiny_tokenizer

LOOP = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}"
TEMPLATE = "{{ bos_token }}" + LOOP
DOCUMENTS = tiny_documents(count=60)


def zstd(data: bytes) -> bytes:
    packed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return packed


PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstd}


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


ROWS = json_lines([{"text": document} for document in DOCUMENTS])


def read(path: Path, *, reader: ChatReader | None = None, **fields: Any) -> list[str]:
    text = TextSource(source=f"file:{path}", **fields)
    access = SourceAccess(allowed_roots=(path.parent,))
    source = open_source(text.source, access)
    return list(read_documents(text, source.pin(lambda name: True), source, access, reader=reader))


def chats(template: str | None = TEMPLATE) -> ChatReader:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.chat_template = template
    return ChatReader(tokenizer, "file:/models/tiny")


class TestPacked:
    @pytest.mark.parametrize("packer", PACKERS)
    @pytest.mark.parametrize("name", ["t.txt", "t.jsonl", "c4-train.00000-of-01024.json", "t.parquet"])
    def test_every_format(self, tmp_path: Path, name: str, packer: str) -> None:
        plain = tiny_text(tmp_path / "plain", documents=DOCUMENTS)
        ending = ".jsonl" if name.endswith(".json") else Path(name).suffix
        path = tmp_path / f"{name}{packer}"
        path.write_bytes(PACKERS[packer](plain.with_suffix(ending).read_bytes()))
        assert read(path) == DOCUMENTS

    @pytest.mark.parametrize("packer", PACKERS)
    @pytest.mark.parametrize("name", ["named.jsonl", "named.json.gz", "named.jsonl.zst"])
    def test_the_first_bytes_count_and_not_the_name(self, tmp_path: Path, name: str, packer: str) -> None:
        path = tmp_path / name
        path.write_bytes(PACKERS[packer](ROWS))
        assert read(path) == DOCUMENTS
        path.write_bytes(ROWS)
        assert read(path) == DOCUMENTS

    @pytest.mark.parametrize("packer", PACKERS)
    def test_several_parts_in_one_file(self, tmp_path: Path, packer: str) -> None:
        path = tmp_path / f"t.jsonl{packer}"
        path.write_bytes(PACKERS[packer](ROWS) + PACKERS[packer](ROWS))
        assert read(path) == DOCUMENTS * 2

    @pytest.mark.parametrize("packer", PACKERS)
    @pytest.mark.parametrize("damage", ["cut", "flipped", "followed"])
    def test_a_damaged_file_is_named(self, tmp_path: Path, packer: str, damage: str) -> None:
        data = bytearray(PACKERS[packer](ROWS))
        if damage == "cut":
            del data[-20:]
        elif damage == "flipped":
            data[len(data) // 2] ^= 0xFF
        else:
            data += b"more"
        path = tmp_path / f"t.jsonl{packer}"
        path.write_bytes(bytes(data))
        with pytest.raises(InvalidSpec, match=rf"t\.jsonl{packer} (is not a whole|line)"):
            read(path)

    @pytest.mark.parametrize("packer", PACKERS)
    def test_a_bomb_ends_in_an_error_and_in_little_memory(self, packer: str) -> None:
        bomb = PACKERS[packer](bytes(1 << 28))
        text = TextSource(source=f"file:/t/t.txt{packer}")
        tracemalloc.start()
        with pytest.raises(InvalidSpec, match="unpacks to more than 200 times its size"):
            for _ in unpacked(text, [bomb]):
                pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 26

    @settings(derandomize=True, deadline=None, max_examples=40)
    @given(data=st.binary(max_size=300), size=st.integers(1, 40), packer=st.sampled_from(sorted(PACKERS)))
    def test_chunks_do_not_matter(self, data: bytes, size: int, packer: str) -> None:
        packed = PACKERS[packer](data)
        text = TextSource(source="file:/t/t.jsonl")
        chunks = [packed[i : i + size] for i in range(0, len(packed), size)]
        assert b"".join(unpacked(text, chunks)) == data

    def test_it_streams(self) -> None:
        """The first documents come before the end of the file is asked for."""
        asked = 0

        def chunks() -> Iterator[bytes]:
            nonlocal asked
            packed = gzip.compress(bytes(range(256)) * 40_000, 1)
            for i in range(0, len(packed), 1000):
                asked += 1
                yield packed[i : i + 1000]

        assert next(unpacked(TextSource(source="file:/t/t.txt"), chunks()))
        assert asked < 60

    def test_a_changed_file_is_noticed_inside_of_the_packing(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl.gz"
        path.write_bytes(gzip.compress(ROWS))
        text = TextSource(source=f"file:{path}")
        access = SourceAccess(allowed_roots=(tmp_path,))
        source = open_source(text.source, access)
        pin = source.pin(lambda name: True)
        path.write_bytes(gzip.compress(ROWS.replace(b"apple", b"berry")))
        with pytest.raises(SourceChanged):
            list(read_documents(text, pin, source, access))

    def test_other_kinds_of_files_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        for data, told in (
            (bz2.compress(ROWS), "a bzip2 file: unpack it"),
            (lzma.compress(ROWS), "an xz file: unpack it"),
        ):
            path.write_bytes(data)
            with pytest.raises(InvalidSpec, match=told):
                read(path)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.jsonl", ROWS)
        with pytest.raises(InvalidSpec, match="a zip archive"):
            read(path)
        pq.write_table(pa.table({"text": DOCUMENTS}), path)
        with pytest.raises(InvalidSpec, match=r"a parquet file: let its name end in \.parquet"):
            read(path)

    def test_a_json_list_is_told_apart(self, tmp_path: Path) -> None:
        path = tmp_path / "t.json"
        for indent in (None, 1):
            path.write_text(json.dumps([{"text": "one"}], indent=indent))
            with pytest.raises(InvalidSpec, match="holds one JSON list; write one object per line"):
                read(path)


class TestSubmission:
    """The size of a packed file says little about its tokens."""

    def test_a_packed_text_may_be_small(self, tmp_path: Path) -> None:
        access = SourceAccess(allowed_roots=(tmp_path,))
        for name in ("t.jsonl.gz", "t.jsonl"):
            path = tmp_path / name
            path.write_bytes(gzip.compress(ROWS))
            asked = Calibration(source=f"file:{path}", sequence_length=len(ROWS) // 2)
            assert resolve_text(asked, access).size < asked.sequence_length
        path.write_bytes(ROWS)
        with pytest.raises(TextTooShort):
            resolve_text(asked.model_copy(update={"sequence_length": len(ROWS) + 1}), access)

    @pytest.mark.parametrize("packed", [True, False])
    def test_a_training_text(self, tmp_path: Path, packed: bool) -> None:
        model = tiny_checkpoint("llama", tmp_path / "model")
        path = tmp_path / "t.jsonl"
        path.write_bytes(gzip.compress(ROWS) if packed else ROWS[:2000])
        asked = PruneSpec.model_validate(
            {
                "model": {"source": f"file:{model}"},
                "recovery": {
                    "text": {"source": f"file:{path}", "sequence_length": 64, "validation_sequences": 1},
                    "steps": 21,
                    "global_batch_size": 4,
                },
            }
        )
        if packed:
            assert resolve(asked, SourceAccess(allowed_roots=(tmp_path,)))
        else:
            with pytest.raises(TextTooShort):
                resolve(asked, SourceAccess(allowed_roots=(tmp_path,)))

    @pytest.mark.parametrize("name", ["t.csv", "t", "t.gz", "t.txt.bz2", "t.docx.gz"])
    def test_other_endings_are_refused_with_the_known_ones(self, name: str) -> None:
        with pytest.raises(
            ValueError, match=r"\.txt, \.jsonl, \.json, \.parquet, each also with \.gz or \.zst"
        ):
            TextSource(source=f"file:/t/{name}")


CHAT = [{"role": "user", "content": "Prune?"}, {"role": "assistant", "content": "Yes."}]
SHARED = [{"from": "human", "value": "Prune?"}, {"from": "gpt", "value": "Yes."}]
RENDERED = "[user] Prune?\n[assistant] Yes.\n"  # without the BOS of the template


class TestChats:
    @pytest.mark.parametrize(("column", "messages"), [("messages", CHAT), ("conversations", SHARED)])
    @pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
    def test_both_shapes(
        self, tmp_path: Path, column: str, messages: list[dict[str, str]], ending: str
    ) -> None:
        path = tmp_path / f"t{ending}"
        if ending == ".jsonl":
            path.write_bytes(json_lines([{column: messages}] * 2))
        else:
            pq.write_table(pa.table({column: [messages] * 2}), path)
        assert read(path, reader=chats(), column=column) == [RENDERED] * 2

    def test_a_dataset_on_the_hub(self, tmp_path: Path) -> None:
        with serve_hub() as hub:
            hub.datasets["org/chats"] = Repository({"train.jsonl": json_lines([{"messages": CHAT}])})
            access = SourceAccess(hub_endpoint=hub.endpoint, hub_cache_dir=tmp_path / "cache")
            text = TextSource(source="hub:org/chats", column="messages")
            source = open_source(text.source, access, repository="dataset")
            pin = source.pin(lambda name: True)
            assert list(read_documents(text, pin, source, access, reader=chats())) == [RENDERED]

    def test_columns_that_tables_fill_with_nothing_are_left_out(self, tmp_path: Path) -> None:
        path = tmp_path / "t.parquet"
        messages = [{**CHAT[0], "tool_calls": None}, {**CHAT[1], "tool_calls": "dig"}]
        pq.write_table(pa.table({"messages": [messages]}), path)
        tools = TEMPLATE.replace("\n", "{{ '!' if 'tool_calls' in message else '' }}\n")
        assert read(path, reader=chats(tools), column="messages") == ["[user] Prune?\n[assistant] Yes.!\n"]

    def test_without_a_template_column_and_model_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(json_lines([{"messages": CHAT}]))
        with pytest.raises(InvalidSpec) as caught:
            read(path, reader=chats(None), column="messages")
        assert "line 1: column 'messages' holds a chat" in caught.value.message
        assert "the tokenizer of file:/models/tiny has no chat template" in caught.value.message
        with pytest.raises(InvalidSpec, match="takes texts as they are"):
            read(path, column="messages")
        with pytest.raises(InvalidSpec, match="set column to one of: messages"):
            read(path, reader=chats())

    def test_a_template_that_refuses_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(json_lines([{"messages": CHAT}]))
        strict = "{{ raise_exception('roles must alternate') }}"
        with pytest.raises(
            InvalidSpec, match=r"line 1.*file:/models/tiny refuses the chat: roles must alternate"
        ):
            read(path, reader=chats(strict), column="messages")

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ([], "an empty list"),
            (["a", "b"], "a list of str"),
            ([{"role": "user"}], "a list of dict"),
            ({"text": "a", "n": 1}, "an object with text, n"),
            (None, "NoneType"),
        ],
    )
    def test_other_values_are_described(self, tmp_path: Path, value: object, told: str) -> None:
        path = tmp_path / "t.jsonl"
        path.write_bytes(json_lines([{"messages": value}]))
        with pytest.raises(InvalidRequest, match=f"must hold text, got {told}$"):
            read(path, reader=chats(), column="messages")
