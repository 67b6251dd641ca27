"""Where BOS stands in calibration samples, training sequences and the windows of a perplexity."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import InvalidSpec
from pipeline.request.bos import with_bos
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.texts import Calibration
from pipeline.spec.training_recipe import TrainingText
from pipeline.text.sequences import Row
from pipeline.text.tokens import cut_held_out, cut_samples, perplexity_tokens, perplexity_windows
from tests.models import tiny_documents, tiny_tokenizer

LLAMA = tiny_tokenizer("llama")  # puts <s> in front
GPT2 = tiny_tokenizer("gpt2")  # does not
BOS, EOS, LENGTH = 0, 1, 32
DOCUMENTS = tiny_documents(count=40)


def calibration(**fields: Any) -> Calibration:
    return Calibration.model_validate(
        {"source": "file:/t/text.txt", "samples": 8, "sequence_length": LENGTH} | fields
    )


def perplexity_text(**fields: Any) -> PerplexityText:
    return PerplexityText.model_validate({"source": "file:/t/text.txt", "sequence_length": LENGTH} | fields)


def without_bos() -> Any:
    tokenizer = tiny_tokenizer("gpt2")
    tokenizer.bos_token = None
    return tokenizer


class TestSamples:
    @pytest.mark.parametrize("cut", ["random_window", "packed"])
    @pytest.mark.parametrize("tokenizer", [LLAMA, GPT2])
    def test_every_window_begins_with_bos_and_has_it_nowhere_else(self, cut: str, tokenizer: Any) -> None:
        samples_NL = cut_samples(DOCUMENTS, tokenizer, calibration(cut=cut, bos="every_window"))
        assert samples_NL.shape == (8, LENGTH)
        assert (samples_NL[:, 0] == BOS).all()
        assert (samples_NL[:, 1:] != BOS).all()

    def test_random_windows_are_the_same_text_as_without_bos(self) -> None:
        """The draws stay those of the papers' code, where the tokenizer adds BOS: BOS takes the place of the
        token in front."""
        marked = cut_samples(DOCUMENTS, LLAMA, calibration())
        begun = cut_samples(DOCUMENTS, LLAMA, calibration(bos="every_window"))
        assert torch.equal(begun[:, 1:], marked[:, 1:])

    def test_packed_windows_join_the_same_row(self) -> None:
        row = [token for one in DOCUMENTS for token in [*LLAMA(one, add_special_tokens=False).input_ids, EOS]]
        windows = {tuple(row[i : i + LENGTH - 1]) for i in range(0, len(row), LENGTH - 1)}
        begun = cut_samples(DOCUMENTS, LLAMA, calibration(cut="packed", bos="every_window"))
        assert {tuple(sample[1:]) for sample in begun.tolist()} <= windows

    def test_once_marks_documents(self) -> None:
        many = calibration(cut="packed", bos="once", samples=40)
        for sample in cut_samples(DOCUMENTS, GPT2, many).tolist():
            begins = [i for i, token in enumerate(sample) if token == BOS]
            assert all(i == 0 or sample[i - 1] == EOS for i in begins)
        assert torch.equal(
            cut_samples(DOCUMENTS, GPT2, calibration(bos="once")),
            cut_samples(DOCUMENTS, LLAMA, calibration()),
        )

    def test_none_has_no_bos(self) -> None:
        samples_NL = cut_samples(DOCUMENTS, LLAMA, calibration(bos="none", samples=300))
        assert (samples_NL != BOS).all()

    @pytest.mark.parametrize("cut", ["random_window", "packed"])
    def test_held_out_samples_begin_alike(self, cut: str) -> None:
        asked = calibration(cut=cut, bos="every_window")
        held_NL = cut_held_out(DOCUMENTS, LLAMA, asked, samples=3)
        assert held_NL.shape == (3, LENGTH)
        assert (held_NL[:, 0] == BOS).all()

    @pytest.mark.parametrize("bos", ["once", "every_window"])
    def test_a_tokenizer_without_bos_is_refused(self, bos: str) -> None:
        with pytest.raises(InvalidSpec, match="bos: none") as caught:
            cut_samples(DOCUMENTS, without_bos(), calibration(bos=bos))
        assert caught.value.param == "spec.calibration.bos"


class TestPerplexity:
    @settings(derandomize=True, deadline=None, max_examples=60)
    @given(tokens=st.integers(31, 400), stride=st.integers(1, 31) | st.none())
    def test_every_token_of_the_windows_is_scored_exactly_once(self, tokens: int, stride: int | None) -> None:
        text = perplexity_text(bos="every_window", stride=stride)
        tokens_T = torch.tensor([BOS, *range(1, tokens + 1)])
        windows = perplexity_windows(text, tokens_T)
        scored: list[int] = []
        for window_L, count in windows:
            assert len(window_L) == LENGTH
            assert int(window_L[0]) == BOS
            assert count <= LENGTH - 1
            scored += window_L[-count:].tolist()
        reached = max(int(window_L[-1]) for window_L, _ in windows)
        assert scored == list(range(1, reached + 1))
        assert tokens - reached < (stride or LENGTH - 1)  # what is left does not fill a window

    def test_the_text_is_tokenised_without_marks_of_its_own(self) -> None:
        every = perplexity_tokens(perplexity_text(bos="every_window"), DOCUMENTS[:3], GPT2).tokens_T
        once = perplexity_tokens(perplexity_text(bos="once"), DOCUMENTS[:3], LLAMA).tokens_T
        default = perplexity_tokens(perplexity_text(), DOCUMENTS[:3], LLAMA).tokens_T
        assert torch.equal(every, once)
        assert torch.equal(once, default)
        assert int((every == BOS).sum()) == 1

    def test_a_tokenizer_without_bos_is_refused(self) -> None:
        with pytest.raises(InvalidSpec, match="tokenizer has none"):
            perplexity_tokens(perplexity_text(bos="once"), DOCUMENTS[:1], without_bos())

    def test_a_stride_that_leaves_out_tokens_is_refused(self) -> None:
        perplexity_text(stride=LENGTH - 1, bos="every_window")
        with pytest.raises(ValidationError, match="which BOS leaves of a window"):
            perplexity_text(stride=LENGTH, bos="every_window")


class TestTraining:
    def rows(self, **fields: Any) -> list[list[int]]:
        text = TrainingText.model_validate({"source": "file:/t/t.txt", "sequence_length": LENGTH} | fields)
        return [one.tolist() for one in Row(text, GPT2).sequences(DOCUMENTS[:6])]

    def test_every_window(self) -> None:
        plain = [token for row in self.rows() for token in row]
        begun = self.rows(bos="every_window")
        assert all(len(row) == LENGTH and row[0] == BOS for row in begun)
        text = [token for row in begun for token in row[1:]]
        shared = min(len(text), len(plain))
        assert text[:shared] == plain[:shared]

    def test_once_and_none(self) -> None:
        assert self.rows(bos="none") == self.rows()
        once = [token for row in self.rows(bos="once") for token in row]
        assert once[0] == BOS
        assert all(once[i + 1] == BOS for i, token in enumerate(once[:-1]) if token == EOS)


class TestHabits:
    SPEC = PruneSpec.model_validate(
        {
            "model": {"source": "file:/m"},
            "calibration": {"source": "file:/t/t.txt"},
            "prune": {"method": {"kind": "wanda"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
            "recovery": {"text": {"source": "file:/t/t.txt"}, "steps": 30},
            "evaluation": {
                "perplexity": [{"source": "file:/t/t.txt"}, {"source": "file:/t/u.txt", "bos": "none"}]
            },
        }
    )

    @pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text"])
    def test_gemma_begins_every_window(self, model_type: str) -> None:
        filled = with_bos(self.SPEC, model_type)
        assert filled.calibration is not None
        assert filled.recovery is not None
        assert filled.calibration.bos == filled.recovery.text.bos == "every_window"
        assert [text.bos for text in filled.evaluation.perplexity] == ["every_window", "none"]
        assert PruneSpec.model_validate_json(filled.model_dump_json()) == filled

    def test_others_are_dumped_as_they_were(self) -> None:
        filled = with_bos(self.SPEC, "llama").model_dump(mode="json")
        assert "bos" not in filled["calibration"]
        assert "bos" not in filled["recovery"]["text"]
        assert [text["bos"] for text in filled["evaluation"]["perplexity"]] == ["tokenizer", "none"]
