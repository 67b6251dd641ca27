"""Derivations against the libraries: random merges, pieces and scores, ties included."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import Tokenizer, models

from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.errors import InvalidSpec
from pipeline.vocabulary.choosing import choose_tokens
from pipeline.vocabulary.pieces import MergedPieces, ScoredPieces
from pipeline.vocabulary.reading import json_pieces, sentencepiece_pieces
from pipeline.vocabulary.rewriting import rewrite_tokenizer
from tests.pipeline.vocabulary.made import counts

LETTERS = "abc"
texts = st.text(LETTERS, min_size=1, max_size=12)


@st.composite
def merges(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Pairs of pieces that are there when their turn comes, in any order afterwards."""
    pieces = list(LETTERS)
    pairs: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, 14))):
        pair = (draw(st.sampled_from(pieces)), draw(st.sampled_from(pieces)))
        if pair not in pairs and len(pair[0] + pair[1]) <= 6:
            pairs.append(pair)
            pieces.append(pair[0] + pair[1])
    return draw(st.permutations(pairs))


def bpe(pairs: list[tuple[str, str]], *, ignore_merges: bool = False) -> Tokenizer:
    pieces = dict.fromkeys([*LETTERS, *sorted({left + right for left, right in pairs})])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=ignore_merges))


def sentencepiece(scored: dict[str, float], *, model_type: int, unused: str | None = None) -> bytes:
    """A model of these pieces, without bytes and normalization. `unused`: a piece of that type."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type = model_type
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = False
    proto.pieces.add(piece="<unk>", score=0.0, type=2)
    for piece, score in scored.items():
        proto.pieces.add(piece=piece, score=score, type=5 if piece == unused else 1)
    return proto.SerializeToString()


@st.composite
def scores(draw: st.DrawFn) -> dict[str, float]:
    """Every letter and some longer pieces made of others; few scores, so that there are ties."""
    pieces = list(LETTERS)
    for _ in range(draw(st.integers(1, 12))):
        made = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if made not in pieces and len(made) <= 6:
            pieces.append(made)
    steps = st.sampled_from([-1.0, -2.0, -2.5, -4.0, -7.0])
    return {piece: draw(steps) for piece in draw(st.permutations(pieces))}


def choose(model, rows: int, data: st.DataObject) -> KeptTokens:
    """A cut by random frequencies to a random size."""
    protected = dict(model.must_stay())
    frequencies = data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    size = data.draw(st.integers(len(protected), rows))
    try:
        return choose_tokens(counts(frequencies).tokens_V, [model], protected, size=size)
    except InvalidSpec:  # what must stay is merged from more than that
        return choose_tokens(counts(frequencies).tokens_V, [model], protected, size=rows)


def test_a_derivation_is_the_one_that_is_taken() -> None:
    ids = {piece: i for i, piece in enumerate(["a", "b", "c", "ab", "bc", "abc", "ca", "cab"])}
    pairs = [("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c"), ("ca", "b")]
    model = MergedPieces(ids=ids, merges=pairs)
    assert model.parts("abc") == ("a", "bc")  # never by way of ab, though that is a token and a merge
    assert model.parts("a") == ()
    assert model.parts("cab") is None  # a and b merge first, and nothing joins c with ab
    assert MergedPieces(ids=ids, merges=pairs, whole=True).parts("cab") == ()


def test_equal_scores_are_merged_from_the_left() -> None:
    model = ScoredPieces(
        ids={"a": 0, "aa": 1, "aaa": 2}, scores={"a": 0.0, "aa": -1.0, "aaa": -2.0}, fixed={}
    )
    assert model.parts("aaa") == ("aa", "a")


@given(pairs=merges(), whole=st.booleans())
def test_what_merges_can_yield_is_what_the_library_yields(pairs: list[tuple[str, str]], whole: bool) -> None:
    tokenizer = bpe(pairs, ignore_merges=whole)
    model = json_pieces(json.loads(tokenizer.to_str())["model"])
    for piece in model.ids:
        assert (model.parts(piece) is not None) == (tokenizer.encode(piece).tokens == [piece])


@pytest.mark.slow
@settings(max_examples=300)
@given(pairs=merges(), whole=st.booleans(), data=st.data())
def test_fewer_merges_take_the_same_way(
    pairs: list[tuple[str, str]], whole: bool, data: st.DataObject
) -> None:
    dense = bpe(pairs, ignore_merges=whole)
    document = dense.to_str().encode()
    model = json_pieces(json.loads(document)["model"])
    tokens = choose(model, len(model.ids), data)
    cut = Tokenizer.from_str(
        rewrite_tokenizer({"tokenizer.json": document}, tokens)["tokenizer.json"].decode()
    )
    for piece in cut.get_vocab():
        if dense.encode(piece).tokens == [piece]:
            assert cut.encode(piece).tokens == [piece]
    for text in data.draw(st.lists(texts, min_size=5, max_size=20)):
        assert "".join(cut.encode(text).tokens) == text
        before = dense.encode(text)
        if set(before.ids) <= set(tokens.kept):
            assert cut.encode(text).tokens == before.tokens
            assert cut.encode(text).ids == [tokens.new_ids[token] for token in before.ids]


@given(scored=scores())
def test_what_scores_can_yield_is_what_the_library_yields(scored: dict[str, float]) -> None:
    document = sentencepiece(scored, model_type=2)
    library = SentencePieceProcessor(model_proto=document)
    model = sentencepiece_pieces(document)
    for piece in scored:
        assert (model.parts(piece) is not None) == (library.encode(piece, out_type=str) == [piece])


@pytest.mark.slow
@settings(max_examples=300)
@given(scored=scores(), model_type=st.sampled_from([1, 2]), data=st.data())
def test_fewer_pieces_take_the_same_way(
    scored: dict[str, float], model_type: int, data: st.DataObject
) -> None:
    unused = data.draw(st.none() | st.sampled_from([piece for piece in scored if len(piece) > 1]))
    document = sentencepiece(scored, model_type=model_type, unused=unused)
    model = sentencepiece_pieces(document)
    tokens = choose(model, len(model.ids), data)
    dense = SentencePieceProcessor(model_proto=document)
    rewritten = rewrite_tokenizer({"tokenizer.model": document}, tokens)["tokenizer.model"]
    cut = SentencePieceProcessor(model_proto=rewritten)
    assert [cut.id_to_piece(i) for i in range(cut.get_piece_size())] == [
        dense.id_to_piece(token) for token in tokens.kept
    ]
    unknown = ["x", "xa"]  # no character of theirs is a piece
    for text in [*unknown, *data.draw(st.lists(st.text("abcx", max_size=12), min_size=5, max_size=20))]:
        assert cut.decode(cut.encode(text)) == dense.decode(dense.encode(text))
        before = dense.encode(text)
        if set(before) <= set(tokens.kept):
            assert cut.encode(text) == [tokens.new_ids[token] for token in before]


def test_without_derivations_texts_would_be_taken_apart_otherwise() -> None:
    tokenizer = bpe([("b", "c"), ("a", "bc"), ("a", "b")])
    kept = KeptTokens(
        kept=tuple(sorted(tokenizer.token_to_id(piece) for piece in ["a", "b", "c", "ab", "abc"]))
    )
    rewritten = rewrite_tokenizer({"tokenizer.json": tokenizer.to_str().encode()}, kept)["tokenizer.json"]
    cut = Tokenizer.from_str(rewritten.decode())
    assert tokenizer.encode("abc").tokens == ["abc"]
    assert cut.encode("abc").tokens == ["ab", "c"]
    assert list(itertools.chain(json.loads(rewritten)["model"]["merges"])) == [["a", "b"]]


def test_the_penalty_of_unknown_characters_stays() -> None:
    scored = {**dict.fromkeys("abcdz", -7.0), "ba": -1.0, "cd": -1.0, "axc": -7.0, "zz": -20.0}
    document = sentencepiece(scored, model_type=1)
    dense = SentencePieceProcessor(model_proto=document)
    assert dense.encode("baxcd", out_type=str) == ["b", "axc", "d"]
    every = tuple(range(dense.get_piece_size()))
    worst = dense.piece_to_id("zz")
    assert worst in sentencepiece_pieces(document).must_stay()
    without = KeptTokens(kept=tuple(token for token in every if token != worst))
    rewritten = rewrite_tokenizer({"tokenizer.model": document}, without)["tokenizer.model"]
    cut = SentencePieceProcessor(model_proto=rewritten)
    assert cut.encode("baxcd", out_type=str) == ["ba", "x", "cd"]  # an unknown x is cheaper now
