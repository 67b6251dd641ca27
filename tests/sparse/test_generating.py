"""Answers token by token: the same tokens as `generate`, and texts that can be shown while they grow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

import secateur.sparse
from secateur.sparse import SparseError
from secateur.sparse.generating import Answerer, Options, _GrowingText
from tests.models import PARAGRAPH, POSITIONS, tiny_tokenizer
from tests.sparse.answering import answerer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("answering") / "model"


@pytest.fixture(scope="module")
def answering(directory: Path) -> Answerer:
    return answerer(directory)


def whole(answering: Answerer, prompt: str, **options: Any) -> tuple[str, int, str | None]:
    """The text of an answer, its tokens, and why it ended."""
    pieces = list(answering.pieces(answering.ids_of(prompt), Options(**options)))
    assert [piece.finish is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    return "".join(piece.text for piece in pieces), pieces[-1].tokens, pieces[-1].finish


def test_greedy_tokens_are_those_of_generate(answering: Answerer) -> None:
    prompt = answering.ids_of("The gardener walks")
    expected = answering.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)
    assert list(answering.tokens(prompt, Options(most=12))) == expected[0, len(prompt) :].tolist()


def test_the_text_is_that_of_all_tokens(answering: Answerer) -> None:
    tokens = list(answering.tokens(answering.ids_of("The"), Options(most=20)))
    expected = answering.tokenizer.decode(tokens, skip_special_tokens=True)
    assert whole(answering, "The", most=20) == (expected, 20, "length")


def test_a_token_that_ends_the_text_ends_the_answer(
    answering: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = list(answering.tokens(answering.ids_of("The"), Options(most=6)))
    end = next(i for i in range(1, 6) if tokens[i] not in tokens[:i])
    own = Answerer(answering.model, answering.tokenizer)
    monkeypatch.setattr(own.model.generation_config, "eos_token_id", [tokens[end], 1])
    assert whole(own, "The", most=6)[1:] == (end, "stop")


def test_equal_seeds_give_equal_answers(answering: Answerer) -> None:
    drawn = {"most": 12, "temperature": 1.5, "top_p": 0.9}
    one, same, other = (whole(answering, "The", seed=seed, **drawn) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    nearly_greedy = whole(answering, "The", seed=1, most=12, temperature=1.0, top_p=1e-9)
    assert nearly_greedy == whole(answering, "The", most=12)


def test_a_stop_text_ends_the_answer_and_is_not_shown(answering: Answerer) -> None:
    text, _, _ = whole(answering, "The", most=20)
    stop = text[5:8]
    found, tokens, finish = whole(answering, "The", most=20, stop=("never there", stop))
    assert found == text[: text.index(stop)]
    assert finish == "stop"
    assert tokens < 20


def test_only_whole_characters_and_no_beginning_of_a_stop_text_are_shown() -> None:
    """The dash has three bytes, and a token for each of them."""
    tokenizer = tiny_tokenizer("gpt2")
    ids = tokenizer("a—b END c").input_ids
    text = _GrowingText(tokenizer, ("END",))
    shown = []
    for token in ids:
        shown.append(text.taken(token))
        if text.stopped:
            break
    assert "".join(shown) == "a—b "
    assert text.stopped
    assert not any("\N{REPLACEMENT CHARACTER}" in one or "E" in one for one in shown)
    unfinished = _GrowingText(tokenizer, ("END",))
    growing = "".join(unfinished.taken(token) for token in tokenizer("b EN").input_ids)
    assert growing == "b "
    assert unfinished.rest() == "EN"


def test_prompts_without_room_are_refused(answering: Answerer) -> None:
    assert answering.room([5] * 10) == POSITIONS - 10
    with pytest.raises(SparseError, match=f"has {POSITIONS} tokens, and the model has {POSITIONS} positions"):
        answering.room([5] * POSITIONS)
    with pytest.raises(SparseError, match="no tokens"):
        answering.room([])


def test_a_model_without_a_chat_template_does_not_chat(answering: Answerer, directory: Path) -> None:
    ids = answering.ids_of_chat([{"role": "user", "content": "Hello"}])
    assert answering.tokenizer.decode(ids, skip_special_tokens=True) == "user: Hello\nassistant:"
    plain = Answerer.of(answering.model, directory)
    with pytest.raises(SparseError, match="no chat template"):
        plain.ids_of_chat([{"role": "user", "content": "Hello"}])


@pytest.mark.slow
def test_lm_eval_gives_the_same_perplexity(answering: Answerer, directory: Path) -> None:
    """`HFLM` takes the model as it is."""
    figures = []
    for model in (secateur.sparse.load(directory), AutoModelForCausalLM.from_pretrained(directory).eval()):
        harness = HFLM(
            pretrained=model, tokenizer=answering.tokenizer, batch_size=2, max_length=64, device="cpu"
        )
        (found,) = harness.loglikelihood_rolling([_Request(PARAGRAPH)], disable_tqdm=True)
        figures.append(float(found))
    tokens = len(answering.ids_of(PARAGRAPH))
    sparse, dense = (2.718281828459045 ** (-one / tokens) for one in figures)
    assert f"{sparse:.4g}" == f"{dense:.4g}"


class _Request:
    """What lm-eval asks a model with."""

    def __init__(self, text: str) -> None:
        self.args = (text,)
