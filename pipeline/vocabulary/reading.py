"""Reads the models inside of a checkpoint's tokenizer, from its files and as transformers loads them."""

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from pipeline.checkpoint.layout import SENTENCEPIECE
from pipeline.errors import UnsupportedCheckpoint
from pipeline.vocabulary.pieces import MergedPieces, Pieces, ScoredPieces, UnigramPieces

NORMAL, UNKNOWN_TYPE, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # sentencepiece_model.proto
TYPES = {
    UNKNOWN_TYPE: "the unknown piece",
    CONTROL: "control pieces",
    USER_DEFINED: "user-defined pieces",
    UNUSED: "pieces that are marked as unused",
    BYTE: "bytes",
}
UNIGRAM_MODEL, BPE_MODEL = 1, 2
WHERE = "spec.model.source"
NAMED = " or ".join(SENTENCEPIECE)  # in errors


def sentencepiece_of(files: Mapping[str, bytes]) -> bytes | None:
    """Returns the SentencePiece model among a checkpoint's files, if there is one."""
    return next((files[name] for name in SENTENCEPIECE if name in files), None)


def read_pieces(backend: str | None, sentencepiece: bytes | None) -> tuple[Pieces, ...]:
    """Reads the models of a tokenizer. `backend`: tokenizer.json as transformers has it in memory, whatever
    files it came from; `sentencepiece`: the bytes of its SentencePiece model.

    Raises UnsupportedCheckpoint for kinds that cannot be cut, empty ones, and models that disagree on an id.
    """
    models = []
    if backend is not None:
        models.append(json_pieces(json.loads(backend)["model"]))
    if sentencepiece is not None:
        models.append(sentencepiece_pieces(sentencepiece))
    if not models:
        raise UnsupportedCheckpoint(
            "the tokenizer is neither one of the tokenizers library nor of SentencePiece; supported are "
            f"tokenizer.json (BPE, Unigram), vocab.json with merges.txt, and {NAMED} (BPE, Unigram)",
            WHERE,
        )
    _check_consistent(models)
    return tuple(models)


def json_pieces(model: Mapping[str, JsonValue]) -> Pieces:
    """Reads the `model` of a tokenizer.json."""
    kind = model.get("type")
    fallback = model.get("byte_fallback") is True
    vocabulary = model.get("vocab")
    if kind == "Unigram" and isinstance(vocabulary, list):
        rows = [(str(row[0]), float(str(row[1]))) for row in vocabulary if isinstance(row, list)]
        unknown = model.get("unk_id")
        fixed = {unknown: "the unknown token"} if isinstance(unknown, int) else {}
        ids = _not_empty({piece: i for i, (piece, _) in enumerate(rows)}, "tokenizer.json")
        return UnigramPieces(ids=ids, scores=dict(rows), byte_fallback=fallback, fixed=fixed)
    if kind != "BPE" or not isinstance(vocabulary, dict):
        raise UnsupportedCheckpoint(
            f"tokenizer.json holds a model of type {kind!r}, whose vocabulary cannot be cut; supported: BPE, "
            f"Unigram",
            WHERE,
        )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedCheckpoint(
                f"tokenizer.json marks pieces of a word with {name}={model[name]!r}, and such vocabularies "
                f"cannot be cut; supported: BPE without these marks, Unigram",
                WHERE,
            )
    ids = {piece: token for piece, token in vocabulary.items() if isinstance(token, int)}
    unknown = model.get("unk_token")
    return MergedPieces(
        ids=_not_empty(ids, "tokenizer.json"),
        merges=[merge_pair(merge) for merge in _list(model.get("merges"))],
        whole=model.get("ignore_merges") is True,
        byte_fallback=fallback,
        unknown=unknown if isinstance(unknown, str) else None,
    )


def merge_pair(merge: JsonValue) -> tuple[str, str]:
    """Reads a merge in either of the forms that tokenizer.json and merges.txt use: `"a b"` or `["a", "b"]`.
    Raises UnsupportedCheckpoint for anything else."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2:
        raise UnsupportedCheckpoint(f"the tokenizer has the merge {merge!r}; expected two pieces", WHERE)
    return str(pair[0]), str(pair[1])


def sentencepiece_pieces(data: bytes) -> Pieces:
    """Reads the bytes of a SentencePiece model."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise UnsupportedCheckpoint(f"{NAMED} is no SentencePiece model: {error}", WHERE) from error
    kind = proto.trainer_spec.model_type
    if kind not in (UNIGRAM_MODEL, BPE_MODEL):
        name = sentencepiece_model_pb2.TrainerSpec.ModelType.Name(kind)
        raise UnsupportedCheckpoint(
            f"{NAMED} holds a model of type {name}, whose vocabulary cannot be cut; supported: BPE, UNIGRAM",
            WHERE,
        )
    ids = _not_empty({piece.piece: i for i, piece in enumerate(proto.pieces)}, NAMED)
    text = (NORMAL,) if kind == UNIGRAM_MODEL else (NORMAL, UNUSED)  # BPE merges through unused pieces
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type in text}
    fixed = {i: TYPES[piece.type] for i, piece in enumerate(proto.pieces) if piece.type != NORMAL}
    if kind == BPE_MODEL:
        return ScoredPieces(ids=ids, scores=scores, fixed=fixed)
    fallback = bool(proto.trainer_spec.byte_fallback)
    return UnigramPieces(ids=ids, scores=scores, byte_fallback=fallback, fixed=fixed)


def _check_consistent(models: Sequence[Pieces]) -> None:
    first = models[0].ids
    for model in models[1:]:
        for piece, token in model.ids.items():
            if first.get(piece, token) != token:
                raise UnsupportedCheckpoint(
                    f"piece {piece!r} has id {token} in its SentencePiece model and id {first[piece]} in the "
                    f"tokenizer that transformers loads; leave out the file that is not the model's",
                    WHERE,
                )


def _not_empty(ids: dict[str, int], path: str) -> dict[str, int]:
    if not ids:
        raise UnsupportedCheckpoint(f"{path} has an empty vocabulary; download or save it again", WHERE)
    return ids


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
