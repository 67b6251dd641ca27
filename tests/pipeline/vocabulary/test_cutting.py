"""Real tokenizers cut: what they do with any text, and what their files say."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.errors import TextTooShort, TokenizerBroken
from pipeline.vocabulary.counting import TokenCounts, count_tokens
from pipeline.vocabulary.cutting import (
    Vocabulary,
    VocabularyProof,
    cut_files,
    kept_tokens,
    prove,
    read_vocabulary,
)
from pipeline.vocabulary.loading import LoadedTokenizer, load_sentencepiece
from tests.pipeline.vocabulary.made import counts, dense
from tests.pipeline.vocabulary.tokenizers import (
    BYTE_LEVEL,
    LINES,
    MISTRAL_MODEL,
    MISTRAL_REQUIREMENT,
    SENTENCEPIECE,
    TRAINED,
    member,
    real_lines,
    sentencepiece_files,
    tokenizer_files,
)

HALF = LINES[::2]


@cache
def cut(kind: str) -> tuple[KeptTokens, dict[str, bytes], LoadedTokenizer]:
    """Half of what is not protected, by the frequencies of every second line."""
    vocabulary = dense(kind)
    size = (len(vocabulary.protected) + vocabulary.tokens) // 2
    tokens = kept_tokens(vocabulary, counted(vocabulary, HALF), size=size)
    files = cut_files(vocabulary, tokens)
    return tokens, files, LoadedTokenizer(files)


def counted(vocabulary: Vocabulary, texts: list[str]) -> TokenCounts:
    *_, found = count_tokens(texts, vocabulary.tokenizer, rows=vocabulary.rows)
    assert isinstance(found, TokenCounts)
    return found


def proof(
    vocabulary: Vocabulary, files: dict[str, bytes], tokens: KeptTokens, texts: list[str]
) -> VocabularyProof:
    *_, found = prove(vocabulary, files, tokens, texts)
    assert isinstance(found, VocabularyProof)
    return found


@pytest.mark.parametrize("kind", TRAINED)
@settings(max_examples=60)
@given(data=st.data())
def test_any_text_comes_back(kind: str, data: st.DataObject) -> None:
    text = data.draw(st.text() | st.lists(st.sampled_from(LINES)).map("\n".join))
    vocabulary = dense(kind)
    tokens, files, tokenizer = cut(kind)
    pairs = [(vocabulary.tokenizer, tokenizer), (vocabulary.sentencepiece, load_sentencepiece(files))]
    for before, after in pairs:
        if before is None or after is None:
            continue
        [old], [new] = before.encode([text]), after.encode([text])
        returned = after.decode(new)
        assert returned == before.decode(old)
        if kind in BYTE_LEVEL:
            assert returned == text
        if set(old) <= set(tokens.kept):
            assert new == [tokens.new_ids[token] for token in old]


@pytest.mark.parametrize("kind", TRAINED)
@settings(max_examples=60)
@given(data=st.data())
def test_texts_of_kept_tokens_get_the_same_pieces(kind: str, data: st.DataObject) -> None:
    vocabulary = dense(kind)
    tokens, _, tokenizer = cut(kind)
    drawn = data.draw(st.lists(st.sampled_from(tokens.kept), min_size=1, max_size=12))
    text = vocabulary.tokenizer.decode(drawn)
    [before] = vocabulary.tokenizer.encode([text])
    if set(before) <= set(tokens.kept):
        assert tokenizer.encode([text]) == [[tokens.new_ids[token] for token in before]]
    if kind in BYTE_LEVEL:
        assert tokenizer.decode(tokenizer.encode([text])[0]) == text


@pytest.mark.parametrize("kind", [*BYTE_LEVEL, "bpe-bytes"])
def test_every_kept_token_is_still_built(kind: str) -> None:
    vocabulary = dense(kind)
    tokens, _, tokenizer = cut(kind)
    assert vocabulary.tokenizer.backend is not None
    assert tokenizer.backend is not None
    before, after = (
        Tokenizer.from_str(backend) for backend in (vocabulary.tokenizer.backend, tokenizer.backend)
    )
    built = 0
    for token in tokens.kept:
        piece = before.id_to_token(token)
        if [one.id for one in before.model.tokenize(piece)] == [token]:
            assert [one.id for one in after.model.tokenize(piece)] == [tokens.new_ids[token]]
            built += 1
    byte_pieces = 256 if kind == "bpe-bytes" else 0
    assert built > len(tokens.kept) - byte_pieces - 20  # all but these and the special ones


@pytest.mark.parametrize("kind", TRAINED)
def test_the_proof_has_figures_and_teeth(kind: str) -> None:
    vocabulary = dense(kind)
    tokens, files, _ = cut(kind)
    found = proof(vocabulary, files, tokens, LINES)
    assert found.added_tokens == len(vocabulary.tokenizer.added)
    assert (found.sentencepiece is not None) == (kind in SENTENCEPIECE)
    for figures in filter(None, (found.tokenizer, found.sentencepiece)):
        assert figures.texts == len(LINES)
        assert figures.same_pieces > len(LINES)
        assert figures.bytes == len("".join(LINES).encode())
        assert figures.dense_tokens < figures.cut_tokens < figures.bytes
        assert figures.identical == figures.dense_identical
    if kind in (*BYTE_LEVEL, "bpe-bytes", "unigram-bytes"):
        assert found.tokenizer.identical == len(LINES)
    with pytest.raises(TextTooShort, match="no held-out text"):
        proof(vocabulary, files, tokens, [])
    rare = -counted(vocabulary, HALF).tokens_V + 1000
    others = kept_tokens(vocabulary, counts(rare.tolist()), size=tokens.rows)
    with pytest.raises(TokenizerBroken):
        proof(vocabulary, cut_files(vocabulary, others), tokens, LINES)


def test_a_choice_without_derivations_is_caught() -> None:
    vocabulary = dense("tokenizer-json")
    frequencies = counted(vocabulary, LINES).tokens_V
    most = sorted(range(vocabulary.rows), key=lambda token: -int(frequencies[token]))[:40]
    tokens = KeptTokens(kept=tuple(sorted({*vocabulary.protected, *most})))
    with pytest.raises(TokenizerBroken, match="apart otherwise than the dense one, from its token"):
        proof(vocabulary, cut_files(vocabulary, tokens), tokens, LINES)


def test_files_of_llama_3_s_type() -> None:
    vocabulary = dense("whole-words")
    tokens, files, tokenizer = cut("whole-words")
    before, after = json.loads(vocabulary.files["tokenizer.json"]), json.loads(files["tokenizer.json"])
    new = {name: tokens.new_ids[i] for name, i in vocabulary.tokenizer.added.items()}
    assert {token["content"]: token["id"] for token in after["added_tokens"]} == new
    assert sorted(new.values()) == list(range(tokens.rows - 4, tokens.rows))
    template = after["post_processor"]["processors"][1]
    assert template["special_tokens"]["<|end|>"]["ids"] == [new["<|end|>"]]
    assert tokenizer.encode_whole(["a"])[0][-1] == new["<|end|>"]
    for same in ("decoder", "normalizer", "pre_tokenizer"):
        assert after[same] == before[same]
    order = [merge for merge in before["model"]["merges"] if merge in after["model"]["merges"]]
    assert after["model"]["merges"] == order
    assert 0 < len(order) < len(before["model"]["merges"])
    assert list(after["model"]["vocab"].values()) == list(range(tokens.rows - 4))
    assert files["chat_template.jinja"] == vocabulary.files["chat_template.jinja"]
    assert json.loads(files["config.json"])["vocab_size"] == tokens.rows


def test_vocab_json_and_merges_go_together() -> None:
    tokens, files, _ = cut("vocab-and-merges")
    vocabulary = json.loads(files["vocab.json"])
    assert sorted(vocabulary.values()) == list(range(tokens.rows))
    lines = files["merges.txt"].decode().split("\n")
    assert lines[0] == "#version: 0.2"
    assert len(lines) > 10
    assert all("".join(line.split(" ")) in vocabulary for line in lines[1:-1])
    assert lines[-1] == ""


def test_older_files_follow_as_well() -> None:
    files = dict(tokenizer_files("whole-words"))
    ids = dense("whole-words").tokenizer.added
    files["added_tokens.json"] = json.dumps(ids).encode()
    files["generation_config.json"] = json.dumps(
        {"eos_token_id": [1, ids["<|end|>"]], "suppress_tokens": [7]}
    ).encode()
    described = json.loads(files["tokenizer_config.json"])
    described["added_tokens_decoder"] = {
        str(i): {"content": name, "special": True} for name, i in ids.items()
    }
    files["tokenizer_config.json"] = json.dumps(described).encode()
    document = json.loads(files["tokenizer.json"])
    document["padding"] = {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": ids["<|pad|>"],
        "pad_type_id": 0,
        "pad_token": "<|pad|>",
    }
    document["post_processor"] = {
        "type": "RobertaProcessing",
        "sep": ["<|end|>", ids["<|end|>"]],
        "cls": ["<|begin|>", ids["<|begin|>"]],
        "trim_offsets": False,
        "add_prefix_space": False,
    }
    files["tokenizer.json"] = json.dumps(document).encode()
    vocabulary = read_vocabulary(files)
    tokens = kept_tokens(vocabulary, counted(vocabulary, HALF), size=600, multiple_of=64)
    rewritten = cut_files(vocabulary, tokens)
    assert tokens.rows == 640
    new = {name: tokens.new_ids[i] for name, i in ids.items()}
    assert json.loads(rewritten["added_tokens.json"]) == new
    assert set(json.loads(rewritten["tokenizer_config.json"])["added_tokens_decoder"]) == {
        str(i) for i in new.values()
    }
    assert json.loads(rewritten["generation_config.json"])["eos_token_id"] == [
        tokens.new_ids[1],
        new["<|end|>"],
    ]
    assert json.loads(rewritten["tokenizer.json"])["padding"]["pad_id"] == new["<|pad|>"]
    assert json.loads(rewritten["tokenizer.json"])["post_processor"]["sep"] == ["<|end|>", new["<|end|>"]]
    proof(vocabulary, rewritten, tokens, LINES)


def test_ids_that_a_config_leaves_to_its_class_become_explicit() -> None:
    files = dict(tokenizer_files("whole-words"))
    files["config.json"] = json.dumps({"model_type": "llama", "vocab_size": 904}).encode()
    vocabulary = read_vocabulary(files)  # Llama's own: <s> is 1, </s> is 2
    tokens = kept_tokens(vocabulary, counts([0] * 100 + [1] * 804), size=300)
    written = json.loads(cut_files(vocabulary, tokens)["config.json"])
    assert written["bos_token_id"] == tokens.new_ids[1]
    assert written["eos_token_id"] == tokens.new_ids[2]


@pytest.mark.slow
def test_the_real_sentencepiece_vocabulary() -> None:
    vocabulary = read_vocabulary(sentencepiece_files(member(MISTRAL_REQUIREMENT, MISTRAL_MODEL)))
    counts_of = counted(vocabulary, real_lines("c4")[:200])
    tokens = kept_tokens(vocabulary, counts_of, size=7950, multiple_of=64)
    assert tokens.rows == 8000
    assert tokens.padding == 0
    held_out = real_lines("multilingual")[:150]
    found = proof(vocabulary, cut_files(vocabulary, tokens), tokens, held_out)
    assert found.sentencepiece is not None
    for figures in (found.tokenizer, found.sentencepiece):
        assert figures.identical == figures.texts == len(held_out)
        assert figures.same_pieces > 1000
