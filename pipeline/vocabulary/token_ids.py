"""Finds and renumbers the token ids that config.json and generation_config.json name.

Fields that decide how sequences begin, end and are padded must stay (`bos_token_id`, lists of `eos_token_id`,
`forced_decoder_ids`); fields that forbid tokens (`suppress_tokens`, `bad_words_ids`) lose the tokens that are
removed.
"""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

REQUIRED = ("_token_id", "_token_ids", "_token_index", "_token_index_list")
REQUIRED_SEQUENCES = ("force_words_ids",)
FORBIDDEN = ("suppress_tokens", "begin_suppress_tokens")
FORBIDDEN_SEQUENCES = ("bad_words_ids",)

NewIds = Mapping[int, int]  # old id → new id, for the tokens that stay


def named_ids(config: Mapping[str, JsonValue]) -> dict[int, str]:
    """Maps ids that must stay to the field that names them, `eos_token_id` or `text_config.eos_token_id`.
    Negative ids mean "none" in some configs and are left out."""
    return {token: name for name, token in _named(config, "") if token >= 0}


def renumbered(config: Mapping[str, JsonValue], new_ids: NewIds) -> dict[str, JsonValue]:
    """Returns the same config with new ids. Raises KeyError for an id that must stay but was removed."""
    return {name: _renumbered(name, value, new_ids) for name, value in config.items()}


def _named(config: Mapping[str, JsonValue], path: str) -> Iterator[tuple[str, int]]:
    for name, value in config.items():
        where = f"{path}{name}"
        if isinstance(value, dict):
            yield from _named(value, f"{where}.")
        elif name.endswith(REQUIRED) or name in REQUIRED_SEQUENCES:
            yield from ((where, token) for token in _flat(value))
        elif name == "forced_decoder_ids":
            yield from ((where, token) for _, token in _pairs(value) if isinstance(token, int))


def _renumbered(name: str, value: JsonValue, new_ids: NewIds) -> JsonValue:
    if isinstance(value, dict):
        return renumbered(value, new_ids)
    if name.endswith(REQUIRED) or name in REQUIRED_SEQUENCES:
        return _mapped(value, new_ids)
    if name == "forced_decoder_ids" and value is not None:
        return [[position, _mapped(token, new_ids)] for position, token in _pairs(value)]
    if name in FORBIDDEN and isinstance(value, list):
        return [_mapped(token, new_ids) for token in value if _stays(token, new_ids)] or None
    if name in FORBIDDEN_SEQUENCES and isinstance(value, list):
        return [_mapped(tokens, new_ids) for tokens in value if _stays(tokens, new_ids)] or None
    if name == "sequence_bias" and isinstance(value, list):
        kept = [(tokens, bias) for tokens, bias in _pairs(value) if _stays(tokens, new_ids)]
        return [[_mapped(tokens, new_ids), bias] for tokens, bias in kept] or None
    return value


def _mapped(value: JsonValue, new_ids: NewIds) -> JsonValue:
    if isinstance(value, list):
        return [_mapped(item, new_ids) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return new_ids[value]
    return value


def _stays(value: JsonValue, new_ids: NewIds) -> bool:
    return all(token < 0 or token in new_ids for token in _flat(value))


def _flat(value: JsonValue) -> Iterator[int]:
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _pairs(value: JsonValue) -> Iterator[tuple[JsonValue, JsonValue]]:
    for pair in value if isinstance(value, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            yield pair[0], pair[1]
