"""Finds the tokens that must stay, with reasons: those that any text may need, special ones, and those that
configs name."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from pydantic import JsonValue

from pipeline.checkpoint.layout import CONFIG_JSON, GENERATION_CONFIG_JSON, TOKENIZER_CONFIG_JSON
from pipeline.errors import UnsupportedCheckpoint
from pipeline.vocabulary.pieces import Pieces
from pipeline.vocabulary.token_ids import named_ids

ADDED = "added and special tokens"
SENTINELS = "sentinels, which mark gaps in a text"
_SENTINEL = re.compile(r"▁?<extra_id_\d+>")  # mT5 has them as ordinary pieces


def protected_ids(
    models: Sequence[Pieces], backend: str | None, files: Mapping[str, bytes], *, rows: int
) -> dict[int, str]:
    """Maps ids to the reasons why they stay. `backend`: tokenizer.json as transformers has it in memory;
    `files`: the checkpoint's small files by name, from which configs and lists of added tokens are read;
    `rows`: rows of the embedding.

    Raises UnsupportedCheckpoint for tokens without a row.
    """
    found: dict[int, str] = {}
    for model in models:
        found |= model.must_stay()
    found |= dict.fromkeys(_added(backend, files), ADDED)
    for path in (CONFIG_JSON, GENERATION_CONFIG_JSON, TOKENIZER_CONFIG_JSON):
        for token, field in named_ids(json.loads(files.get(path, b"{}"))).items():
            if token >= rows:
                raise _without_row(f"{field} in {path}", token, rows)
            found.setdefault(token, f"ids that {path} names")
    for piece, token in chain.from_iterable(model.ids.items() for model in models):
        if _SENTINEL.fullmatch(piece):
            found[token] = SENTINELS
        if token >= rows:
            raise _without_row(f"{piece!r} of the tokenizer", token, rows)
    for token, why in found.items():
        if token >= rows:
            raise _without_row(f"one of the {why}", token, rows)
    return found


def _added(backend: str | None, files: Mapping[str, bytes]) -> set[int]:
    """Returns the ids of added tokens and of the tokens around texts, wherever they are listed."""
    ids: set[int] = set()
    for document in (backend, files.get("tokenizer.json")):
        if document is not None:
            loaded = json.loads(document)
            ids |= {int(token["id"]) for token in loaded.get("added_tokens") or ()}
            ids |= set(around(loaded.get("post_processor") or {}))
            ids |= {loaded["padding"]["pad_id"]} if loaded.get("padding") else set()
    ids |= set(json.loads(files.get("added_tokens.json", b"{}")).values())
    added = json.loads(files.get(TOKENIZER_CONFIG_JSON, b"{}")).get("added_tokens_decoder") or {}
    return ids | {int(token) for token in added}


def around(processor: Mapping[str, JsonValue]) -> Iterator[int]:
    """Yields the ids in a post-processor: those of templates, and of Bert's and Roberta's pairs of token and
    id."""
    for name, value in processor.items():
        if name == "processors" and isinstance(value, list):
            for inner in value:
                yield from around(inner if isinstance(inner, dict) else {})
        if name == "special_tokens" and isinstance(value, dict):
            for token in value.values():
                ids = token.get("ids") if isinstance(token, dict) else None
                yield from (one for one in (ids if isinstance(ids, list) else []) if isinstance(one, int))
        if name in ("sep", "cls") and isinstance(value, list) and isinstance(value[1], int):
            yield value[1]


def _without_row(what: str, token: int, rows: int) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"{what} is token {token}, and the embedding has {rows} rows, 0 to {rows - 1}; give the model a row "
        f"for it (resize_token_embeddings), or name a token that has one",
        "spec.model.source",
    )
