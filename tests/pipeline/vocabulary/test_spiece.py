"""The vocabulary of T5 and its kin: a Unigram model in spiece.model, with sentinels behind its pieces."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.errors import InvalidSpec
from pipeline.spec.vocabulary import VocabularySize
from pipeline.vocabulary.counting import TokenCounts, count_tokens
from pipeline.vocabulary.cutting import (
    Vocabulary,
    VocabularyProof,
    cut_files,
    kept_tokens,
    prove,
    read_vocabulary,
)
from pipeline.vocabulary.loading import LoadedTokenizer
from pipeline.vocabulary.protected import SENTINELS as SENTINELS_STAY
from pipeline.vocabulary.protected import protected_ids
from pipeline.vocabulary.reading import NORMAL, read_pieces
from pipeline.vocabulary.submission import check_tokens
from tests.encoder_decoder_checkpoints import SENTINELS, SPIECE, unigram_tokenizer
from tests.models import PARAGRAPH

LINES = PARAGRAPH.strip().split("\n")
ROWS = 384


@cache
def dense(*, byte_fallback: bool, from_spiece: bool = False) -> Vocabulary:
    """`from_spiece`: without tokenizer.json, as T5's first repositories are."""
    with TemporaryDirectory() as directory:
        unigram_tokenizer(Path(directory), byte_fallback=byte_fallback)
        files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
    if from_spiece:
        del files["tokenizer.json"]
    config = {"model_type": "t5", "vocab_size": ROWS, "decoder_start_token_id": 0}
    return read_vocabulary({**files, "config.json": json.dumps(config).encode()})


def cut(vocabulary: Vocabulary) -> tuple[KeptTokens, dict[str, bytes]]:
    *_, counts = count_tokens(LINES[::2], vocabulary.tokenizer, rows=vocabulary.rows)
    assert isinstance(counts, TokenCounts)
    size = (len(vocabulary.protected) + vocabulary.tokens) // 2
    tokens = kept_tokens(vocabulary, counts, size=size)
    return tokens, cut_files(vocabulary, tokens)


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("from_spiece", [False, True])
def test_both_files_are_cut_alike_and_keep_the_sentinels(byte_fallback: bool, from_spiece: bool) -> None:
    vocabulary = dense(byte_fallback=byte_fallback, from_spiece=from_spiece)
    tokens, files = cut(vocabulary)
    tokenizer = LoadedTokenizer(files)
    pieces = SentencePieceProcessor(model_proto=files[SPIECE]).get_piece_size()
    assert pieces < SentencePieceProcessor(model_proto=vocabulary.files[SPIECE]).get_piece_size()
    assert ("tokenizer.json" in files) != from_spiece
    sentinels = {name: i for name, i in tokenizer.added.items() if name.startswith("<extra_id_")}
    assert len(sentinels) == SENTINELS
    assert sorted(sentinels.values()) == list(range(pieces, pieces + SENTINELS))
    assert sentinels["<extra_id_0>"] == pieces + SENTINELS - 1
    *_, proof = prove(vocabulary, files, tokens, LINES)
    assert isinstance(proof, VocabularyProof)
    assert proof.added_tokens >= SENTINELS + 3
    assert proof.sentencepiece is not None
    assert proof.sentencepiece.texts == proof.tokenizer.texts == len(LINES)
    assert proof.tokenizer.same_pieces > len(LINES)
    config = json.loads(files["config.json"])
    assert (config["vocab_size"], config["decoder_start_token_id"]) == (tokens.rows, 0)


def test_sentinels_that_are_ordinary_pieces_stay() -> None:
    """As in mT5, whose text pieces end with them."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(dense(byte_fallback=False).files[SPIECE])
    lowest = min(piece.score for piece in proto.pieces)
    for number in (1, 0):
        proto.pieces.add(piece=f"▁<extra_id_{number}>", score=lowest - 1, type=NORMAL)
    rows = len(proto.pieces)
    config = json.dumps({"model_type": "mt5", "vocab_size": rows}).encode()
    models = read_pieces(None, proto.SerializeToString())
    protected = protected_ids(models, None, {"config.json": config}, rows=rows)
    assert [protected[token] for token in (rows - 2, rows - 1)] == [SENTINELS_STAY] * 2


def test_a_size_without_room_for_the_sentinels_is_refused_at_submission() -> None:
    vocabulary = dense(byte_fallback=False)
    asked = VocabularySize.model_validate({"size": 20, "texts": [{"source": "file:/t.txt"}]})
    with pytest.raises(InvalidSpec, match="tokens that must stay"):
        check_tokens(asked, vocabulary.files, rows=ROWS)
