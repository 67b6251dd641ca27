"""Rewrites the files of a tokenizer, and the configs that name its ids, for a smaller vocabulary.

The order, scores, remaining merges, normalizers, decoders and chat templates are unchanged.
"""

import json
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.checkpoint.layout import SENTENCEPIECE, depends_on_ids
from pipeline.errors import UnsupportedCheckpoint
from pipeline.vocabulary.reading import merge_pair
from pipeline.vocabulary.token_ids import NewIds, renumbered

Json = dict[str, JsonValue]

VERSION_LINE = "#version"


def rewrite_tokenizer(files: Mapping[str, bytes], tokens: KeptTokens) -> dict[str, bytes]:
    """Returns the given files for the smaller vocabulary, by name; files without ids are unchanged. Those of
    other tokenizer libraries (`depends_on_ids`) are left out, because nothing here renumbers them.

    merges.txt is cut by the vocab.json beside it. Raises UnsupportedCheckpoint for files whose content does
    not match their names.
    """
    ids = tokens.new_ids
    rewritten = {name: data for name, data in files.items() if not depends_on_ids(name)}
    for name, rewrite in _JSON_FILES.items():
        if name in files:
            rewritten[name] = _dumped(rewrite(_object(name, files[name]), ids))
    if "config.json" in files:
        config = renumbered(_object("config.json", files["config.json"]), ids)
        rewritten["config.json"] = _dumped({**config, "vocab_size": tokens.rows})
    for name in SENTENCEPIECE:
        if name in files:
            rewritten[name] = _sentencepiece(files[name], ids)
    if "merges.txt" in files and "vocab.json" in files:
        kept = set(_object("vocab.json", rewritten["vocab.json"]))
        rewritten["merges.txt"] = _merges_txt(files["merges.txt"].decode(), kept).encode()
    return rewritten


def _tokenizer_json(document: Json, ids: NewIds) -> Json:
    model = _part(document, "model")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        kept = _kept(vocabulary, ids)
        merges = model.get("merges")
        left = [merge for merge in merges if _possible(merge, kept)] if isinstance(merges, list) else []
        model = {**model, "vocab": kept, "merges": left}
    elif isinstance(vocabulary, list):
        model = {**model, "vocab": [row for i, row in enumerate(vocabulary) if i in ids]}
        if isinstance(unknown := model.get("unk_id"), int):
            model["unk_id"] = ids[unknown]
    changed: Json = {**document, "model": model}
    if isinstance(added := document.get("added_tokens"), list):
        changed["added_tokens"] = [
            {**token, "id": ids[_number(token["id"])]} for token in added if isinstance(token, dict)
        ]
    if isinstance(processor := document.get("post_processor"), dict):
        changed["post_processor"] = _post_processor(processor, ids)
    if isinstance(padding := document.get("padding"), dict):
        changed["padding"] = {**padding, "pad_id": ids[_number(padding["pad_id"])]}
    return changed


def _post_processor(processor: Json, ids: NewIds) -> Json:
    """Renumbers the ids of special tokens: templates list them, Bert's and Roberta's are pairs of token and
    id."""
    changed = dict(processor)
    if isinstance(inner := processor.get("processors"), list):
        changed["processors"] = [_post_processor(one, ids) for one in inner if isinstance(one, dict)]
    if isinstance(special := processor.get("special_tokens"), dict):
        changed["special_tokens"] = {
            name: {**token, "ids": [ids[_number(one)] for one in _list(token["ids"])]}
            for name, token in special.items()
            if isinstance(token, dict)
        }
    for name in ("sep", "cls"):
        if isinstance(pair := processor.get(name), list):
            changed[name] = [pair[0], ids[_number(pair[1])]]
    return changed


def _tokenizer_config(document: Json, ids: NewIds) -> Json:
    changed = renumbered(document, ids)
    if isinstance(added := document.get("added_tokens_decoder"), dict):
        changed["added_tokens_decoder"] = {str(ids[int(token)]): value for token, value in added.items()}
    return changed


def _kept(vocabulary: Json, ids: NewIds) -> Json:
    """Returns the tokens that stay, in their order in the file."""
    numbered = ((token, _number(number)) for token, number in vocabulary.items())
    return {token: ids[number] for token, number in numbered if number in ids}


_JSON_FILES: Mapping[str, Callable[[Json, NewIds], Json]] = {
    "tokenizer.json": _tokenizer_json,
    "tokenizer_config.json": _tokenizer_config,
    "vocab.json": _kept,
    "added_tokens.json": _kept,
    "generation_config.json": renumbered,
}


def _merges_txt(text: str, kept: set[str]) -> str:
    lines = [line.removesuffix("\r") for line in text.split("\n")]  # other line breaks may be part of a token
    return "\n".join(
        line for line in lines if not line or line.startswith(VERSION_LINE) or _possible(line, kept)
    )


def _possible(merge: JsonValue, kept: set[str] | Json) -> bool:
    left, right = merge_pair(merge)
    return left in kept and right in kept and left + right in kept


def _sentencepiece(data: bytes, ids: NewIds) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    dense = sentencepiece_model_pb2.ModelProto()
    dense.ParseFromString(data)
    cut = sentencepiece_model_pb2.ModelProto()
    cut.CopyFrom(dense)
    cut.DiscardUnknownFields()  # older models keep expected segmentations in them, which may change
    del cut.pieces[:]
    cut.pieces.extend(piece for i, piece in enumerate(dense.pieces) if i in ids)
    cut.trainer_spec.vocab_size = len(cut.pieces)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        old = getattr(dense.trainer_spec, name)
        if old >= 0:
            setattr(cut.trainer_spec, name, ids.get(old, -1))
    return bytes(cut.SerializeToString(deterministic=True))


def _object(name: str, data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise UnsupportedCheckpoint(f"{name} is not JSON: {error}", "spec.model.source") from error
    if not isinstance(value, dict):
        raise UnsupportedCheckpoint(f"{name} is not a JSON object", "spec.model.source")
    return value


def _part(document: Json, name: str) -> Json:
    part = document.get(name)
    if not isinstance(part, dict):
        raise UnsupportedCheckpoint(f"tokenizer.json has no {name}", "spec.model.source")
    return part


def _number(value: JsonValue) -> int:
    if not isinstance(value, int):
        raise UnsupportedCheckpoint(f"the tokenizer has {value!r} for an id", "spec.model.source")
    return value


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _dumped(document: Json) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
