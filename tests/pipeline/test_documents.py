"""Texts become documents, documents become tokens: as the papers' code does it, or as the spec says."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline import rows, tokens
from pipeline.artifacts import CheckpointRef
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.documents import (
    cut_samples,
    materialise_tokenizer,
    perplexity_tokens,
    perplexity_windows,
    read_documents,
    tokenizer_digest,
)
from pipeline.errors import (
    InvalidSpec,
    SourceChanged,
    SourceNotAllowed,
    SourceNotFound,
    StorageUnavailable,
    TextTooShort,
)
from pipeline.evaluation import PerplexityText
from pipeline.resolve import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.storage import ContentStore, LocalStore
from pipeline.texts import Calibration, TextSource
from tests.hub import COMMIT, Hub, Repository, cache_repository, serve_hub
from tests.models import PARAGRAPH, tiny_checkpoint, tiny_documents, tiny_text, tiny_tokenizer

LLAMA = tiny_tokenizer("llama")  # puts <s> in front
GPT2 = tiny_tokenizer("gpt2")  # does not


def read(path: Path, **fields: Any) -> list[str]:
    text = TextSource(source=f"file:{path}", **fields)
    access = SourceAccess(allowed_roots=(path.parent,))
    source = open_source(text.source, access)
    return list(read_documents(text, source.pin(lambda name: True), source, access))


def calibration(**fields: Any) -> Calibration:
    return Calibration.model_validate(
        {"source": "file:/t/text.txt", "samples": 16, "sequence_length": 32} | fields
    )


def perplexity_text(**fields: Any) -> PerplexityText:
    return PerplexityText.model_validate({"source": "file:/t/text.txt", "sequence_length": 32} | fields)


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


def papers_samples(
    documents: list[str], tokenizer: Any, *, count: int, length: int, seed: int
) -> torch.Tensor:
    """The protocol of ALGORITHMS section 1, written down once more, with the module's own generator."""
    random.seed(seed)
    samples = []
    for _ in range(count):
        while True:
            i = random.randint(0, len(documents) - 1)
            ids = tokenizer(documents[i], return_tensors="pt").input_ids
            if ids.shape[1] > length:
                break
        start = random.randint(0, ids.shape[1] - length - 1)
        samples.append(ids[:, start : start + length])
    return torch.cat(samples)


def mixed_documents() -> list[str]:
    """Most are too short for 32 tokens."""
    return [document[: 40 if i % 5 else None] for i, document in enumerate(tiny_documents(count=40))]


class TestRandomWindow:
    @pytest.mark.parametrize("tokenizer", [LLAMA, GPT2])
    @pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
    def test_it_draws_what_the_papers_draw(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        documents = mixed_documents()
        expected = papers_samples(documents, tokenizer, count=16, length=32, seed=seed)
        samples_NL = cut_samples(documents, tokenizer, calibration(seed=seed))
        assert samples_NL.dtype == torch.int64
        assert torch.equal(samples_NL, expected)

    def test_the_module_s_generator_is_left_alone(self) -> None:
        random.seed(7)
        expected = random.random()
        random.seed(7)
        cut_samples(mixed_documents(), LLAMA, calibration())
        assert random.random() == expected

    def test_no_document_is_tokenised_twice(self) -> None:
        seen: list[str] = []

        class Counting:
            eos_token_id = 1

            def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
                seen.append(text)
                return {"input_ids": list(range(len(text)))}

        documents = [f"{i:3}" * (1 if i % 4 else 20) for i in range(12)]
        cut_samples(documents, Counting(), calibration(samples=200))
        assert sorted(seen) == sorted(set(seen))

    def test_a_document_must_be_longer_than_the_window(self) -> None:
        ids = LLAMA(tiny_documents()[0])["input_ids"]
        assert (
            cut_samples(tiny_documents()[:1], LLAMA, calibration(sequence_length=len(ids) - 1)).shape[0] == 16
        )
        with pytest.raises(
            TextTooShort, match=f"more than {len(ids)} tokens.*longest has {len(ids)}"
        ) as caught:
            cut_samples(tiny_documents()[:1], LLAMA, calibration(sequence_length=len(ids)))
        assert caught.value.param == "spec.calibration.sequence_length"
        assert "cut: packed" in caught.value.message

    def test_it_ends_when_nothing_is_long_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            tokens, "SEARCH_AFTER", 3
        )  # fewer draws than documents: the rest is looked through
        short = ["short"] * 50 + ["a little longer, still short"] + ["short"] * 50
        with pytest.raises(TextTooShort, match=f"longest has {len(LLAMA(short[50])['input_ids'])}"):
            cut_samples(short, LLAMA, calibration())
        with pytest.raises(TextTooShort, match="longest has 0"):
            cut_samples([], LLAMA, calibration())

    def test_one_long_document_among_many_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tokens, "SEARCH_AFTER", 3)
        documents = ["short"] * 200 + tiny_documents()[:1]
        expected = papers_samples(documents, LLAMA, count=3, length=32, seed=0)
        assert torch.equal(cut_samples(documents, LLAMA, calibration(samples=3)), expected)


class TestPacked:
    def test_documents_are_joined_with_eos_and_windows_shuffled(self) -> None:
        documents = tiny_documents()
        row: list[int] = []
        for document in documents:
            row += [*LLAMA(document, add_special_tokens=False)["input_ids"], LLAMA.eos_token_id]
        windows = [tuple(row[i : i + 32]) for i in range(0, len(row) - 31, 32)]
        first = cut_samples(documents, LLAMA, calibration(cut="packed", samples=len(windows)))
        got = [tuple(sample) for sample in first.tolist()]
        assert first.dtype == torch.int64
        assert sorted(got) == sorted(windows)
        assert got != windows
        again = cut_samples(documents, LLAMA, calibration(cut="packed"))
        assert torch.equal(again, first[:16])
        other = cut_samples(documents, LLAMA, calibration(cut="packed", seed=1))
        assert not torch.equal(other, again)

    def test_short_documents_suffice_when_there_are_enough(self) -> None:
        assert cut_samples(["short"] * 300, LLAMA, calibration(cut="packed")).shape == (16, 32)

    def test_refusals(self) -> None:
        with pytest.raises(TextTooShort, match=r"16 samples of 32 need 512; .* \(at most 1\)") as caught:
            cut_samples([tiny_documents()[0][:100]], LLAMA, calibration(cut="packed"))
        assert caught.value.param == "spec.calibration.samples"
        with pytest.raises(TextTooShort):
            cut_samples([], LLAMA, calibration(cut="packed"))
        without = PreTrainedTokenizerFast(tokenizer_object=LLAMA.backend_tokenizer)
        with pytest.raises(InvalidSpec, match="EOS"):
            cut_samples(tiny_documents(), without, calibration(cut="packed"))


class TestPerplexity:
    def test_a_text_is_tokenised_once_and_at_once(self) -> None:
        documents = tiny_documents(count=3)
        joined = "\n\n".join(documents)
        tokens_T, digest = perplexity_tokens(perplexity_text(), documents, LLAMA)
        assert tokens_T.dtype == torch.int64
        assert tokens_T.tolist() == LLAMA(joined)["input_ids"]
        assert tokens_T[0] == LLAMA.bos_token_id
        assert digest == hashlib.sha256(joined.encode()).hexdigest()
        bare, same = perplexity_tokens(perplexity_text(bos="none"), documents, LLAMA)
        assert torch.equal(bare, tokens_T[1:])
        assert same == digest

    def test_characters_limit_what_is_read_and_tokenised(self) -> None:
        def endless() -> Iterator[str]:
            while True:
                yield PARAGRAPH

        tokens_T, digest = perplexity_tokens(perplexity_text(characters=1000, join="|"), endless(), GPT2)
        expected = f"{PARAGRAPH}|{PARAGRAPH}"[:1000]
        assert tokens_T.tolist() == GPT2(expected)["input_ids"]
        assert digest == hashlib.sha256(expected.encode()).hexdigest()

    def test_not_even_one_window(self) -> None:
        with pytest.raises(TextTooShort, match="fewer than one window of sequence_length 32"):
            perplexity_tokens(perplexity_text(), ["short"], LLAMA)
        with pytest.raises(TextTooShort):
            perplexity_tokens(perplexity_text(), [], GPT2)

    def test_windows_without_overlap(self) -> None:
        tokens_T = torch.arange(100)
        windows = perplexity_windows(perplexity_text(), tokens_T)
        assert [window.tolist() for window, _ in windows] == [list(range(i, i + 32)) for i in (0, 32, 64)]
        assert [scored for _, scored in windows] == [31, 31, 31]
        assert len(perplexity_windows(perplexity_text(windows=2), tokens_T)) == 2
        assert len(perplexity_windows(perplexity_text(windows=9), tokens_T)) == 3
        assert len(perplexity_windows(perplexity_text(sequence_length=100), tokens_T)) == 1

    @pytest.mark.parametrize("stride", [1, 5, 16, 31, 32])
    def test_with_a_stride_every_token_is_scored_once(self, stride: int) -> None:
        tokens_T = torch.arange(100)
        windows = perplexity_windows(perplexity_text(stride=stride), tokens_T)
        scored = [token for window, count in windows for token in window[len(window) - count :].tolist()]
        assert len(scored) == len(set(scored))
        reached = int(windows[-1][0][-1])
        skipped = {int(window[0]) for window, _ in windows} if stride == 32 else {0}
        assert set(scored) == set(range(reached + 1)) - skipped


def test_a_tokenizer_comes_out_of_the_store_as_it_went_in(tmp_path: Path) -> None:
    refs: list[CheckpointRef] = []
    content = ContentStore(LocalStore(tmp_path / "store"))
    for seed in (0, 1):  # other weights, equal tokenizers
        directory = tiny_checkpoint("llama", tmp_path / f"model{seed}", seed=seed)
        source = open_source(f"file:{directory}", SourceAccess(allowed_roots=(tmp_path,)))
        *_, ref = import_checkpoint(model_pin(source), source, content)
        assert isinstance(ref, CheckpointRef)
        refs.append(ref)
    assert refs[0].digest != refs[1].digest
    assert tokenizer_digest(refs[0]) == tokenizer_digest(refs[1])
    target = tmp_path / "tokenizer"
    target.mkdir()
    materialise_tokenizer(refs[0], content, target)
    assert not list(target.glob("*.safetensors"))
    loaded = AutoTokenizer.from_pretrained(target)
    assert loaded(PARAGRAPH)["input_ids"] == LLAMA(PARAGRAPH)["input_ids"]
    files = tuple(file for file in refs[0].files if file.path != "tokenizer_config.json")
    assert tokenizer_digest(CheckpointRef(files=files)) != tokenizer_digest(refs[0])
