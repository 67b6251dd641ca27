"""Documents become tokens: as the papers' code does it, or as the spec says."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.importing import import_checkpoint
from pipeline.errors import (
    InvalidSpec,
    TextTooShort,
)
from pipeline.resolve.model import model_pin
from pipeline.sources import SourceAccess, open_source
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.texts import Calibration
from pipeline.storage import ContentStore, LocalStore
from pipeline.text import tokens
from pipeline.text.tokens import (
    cut_held_out,
    cut_samples,
    materialise_tokenizer,
    perplexity_tokens,
    perplexity_windows,
    tokenizer_digest,
)
from tests.models import PARAGRAPH, tiny_checkpoint, tiny_documents, tiny_tokenizer

LLAMA = tiny_tokenizer("llama")  # puts <s> in front
GPT2 = tiny_tokenizer("gpt2")  # does not


def calibration(**fields: Any) -> Calibration:
    return Calibration.model_validate(
        {"source": "file:/t/text.txt", "samples": 16, "sequence_length": 32} | fields
    )


def perplexity_text(**fields: Any) -> PerplexityText:
    return PerplexityText.model_validate({"source": "file:/t/text.txt", "sequence_length": 32} | fields)


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
        tokens_T, digest, size = whole = perplexity_tokens(perplexity_text(), documents, LLAMA)
        assert size == len(joined.encode())
        assert whole.tokens_per_byte == len(tokens_T) / size
        assert tokens_T.dtype == torch.int64
        assert tokens_T.tolist() == LLAMA(joined)["input_ids"]
        assert tokens_T[0] == LLAMA.bos_token_id
        assert digest == hashlib.sha256(joined.encode()).hexdigest()
        bare, same, _ = perplexity_tokens(perplexity_text(bos="none"), documents, LLAMA)
        assert torch.equal(bare, tokens_T[1:])
        assert same == digest

    def test_characters_limit_what_is_read_and_tokenised(self) -> None:
        def endless() -> Iterator[str]:
            while True:
                yield PARAGRAPH

        tokens_T, digest, _ = perplexity_tokens(perplexity_text(characters=1000, join="|"), endless(), GPT2)
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


@pytest.mark.parametrize("cut", ["random_window", "packed"])
def test_held_out_samples_share_no_text_with_calibration(cut: str) -> None:
    documents = [" ".join(f"{word}{number}" for word in PARAGRAPH.split()[:60]) for number in range(30)]
    asked = calibration(samples=8, cut=cut)
    before = cut_samples(documents, LLAMA, asked)
    after = cut_held_out(documents, LLAMA, asked, samples=5)
    assert after.shape == (5, 32)
    more = cut_held_out(documents, LLAMA, asked, samples=6)
    assert torch.equal(more[:5], after)
    ids = [LLAMA(document, add_special_tokens=cut == "random_window")["input_ids"] for document in documents]

    def sources(sample: torch.Tensor) -> set[int]:
        row = sample.tolist()
        return {n for n, one in enumerate(ids) if any(one[i : i + 32] == row for i in range(len(one)))}

    if cut == "random_window":
        taken = set().union(*map(sources, before))
        assert taken
        assert not taken & set().union(*map(sources, after))
    assert not {tuple(row) for row in before.tolist()} & {tuple(row) for row in after.tolist()}


def test_a_source_without_documents_left_is_named() -> None:
    asked = calibration(samples=4)
    with pytest.raises(TextTooShort, match=r"the 1 documents of .* are all taken; use a source") as caught:
        cut_held_out([PARAGRAPH * 3], LLAMA, asked, samples=1)
    assert caught.value.param == "spec.calibration.samples"
