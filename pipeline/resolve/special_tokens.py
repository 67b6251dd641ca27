"""Checks, at submission, that the tokens which a job puts into texts exist and have a row in the embedding.

The small files of a checkpoint are read for it, without loading the tokenizer. Where they leave something
to transformers (a tokenizer.model alone, a token that only its class knows), the stage that reads a text
checks it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.layout import CONFIG_JSON, GENERATION_CONFIG_JSON, TOKENIZER_CONFIG_JSON
from pipeline.errors import IncompleteCheckpoint, InvalidSpec, UnsupportedCheckpoint
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import MODEL, ModelFacts
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.self_calibration import SelfCalibration
from pipeline.spec.source_fields import source_fields
from pipeline.spec.texts import Calibration
from pipeline.spec.training_recipe import TrainingText
from pipeline.vocabulary.protected import around
from pipeline.vocabulary.submission import TOKENIZER_JSON

Role = Literal["bos", "eos", "pad"]
ROLES: tuple[Role, ...] = ("bos", "eos", "pad")
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
OF_TOKENIZER = (TOKENIZER_JSON, TOKENIZER_CONFIG_JSON, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
READ = (*OF_TOKENIZER, GENERATION_CONFIG_JSON)
SHOWN = 4  # added tokens that a note names
# Classes of tokenizers that have no special tokens but those that their files name.
PLAIN = ("PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that files name. `named`: role → the token's text and the file that names it;
    `missing`: roles that the tokenizer certainly does not have; `ids`: known tokens → ids; `added`: those of
    them that were added to the vocabulary; `around`: ids that the tokenizer puts around a text; `generation`:
    the content of generation_config.json."""

    named: Mapping[Role, tuple[str, str]]
    missing: frozenset[Role]
    ids: Mapping[str, int]
    added: Mapping[str, int]
    around: frozenset[int]
    generation: Mapping[str, JsonValue]

    def id_of(self, role: Role) -> int | None:
        """Returns the id of a role's token, as far as the files say it."""
        return self.ids.get(self.named[role][0]) if role in self.named else None


def read_special_tokens(files: Mapping[str, bytes]) -> SpecialTokens:
    """Reads the special tokens from the small files of a checkpoint, by name. Raises IncompleteCheckpoint for
    a file that is no JSON object."""
    tokenizer, config, names, added_file = (_object(files, name) for name in OF_TOKENIZER)
    added = {str(token): i for token, i in added_file.items() if isinstance(i, int)}
    decoder = config.get("added_tokens_decoder")
    for i, token in decoder.items() if isinstance(decoder, dict) else ():
        if i.isdecimal() and (text := _content(token)) is not None:
            added[text] = int(i)
    listed = tokenizer.get("added_tokens")
    for token in listed if isinstance(listed, list) else ():
        if isinstance(token, dict) and isinstance(token.get("id"), int):
            added[str(token.get("content"))] = int(str(token["id"]))
    named: dict[Role, tuple[str, str]] = {}
    for role in ROLES:
        for content, name in ((names, SPECIAL_TOKENS_MAP), (config, TOKENIZER_CONFIG_JSON)):
            if (text := _content(content.get(f"{role}_token"))) is not None:
                named[role] = (text, name)
    plain = config.get("tokenizer_class") in PLAIN
    missing = {
        role
        for role in ROLES
        if role not in named and config and (plain or config.get(f"{role}_token", role) is None)
    }
    processor = tokenizer.get("post_processor")
    return SpecialTokens(
        named=named,
        missing=frozenset(missing),
        ids={**_vocabulary(tokenizer), **added},
        added=added,
        around=frozenset(around(processor) if isinstance(processor, dict) else ()),
        generation=_object(files, GENERATION_CONFIG_JSON),
    )


def check_special_tokens(spec: PruneSpec, facts: ModelFacts, tokens: SpecialTokens) -> tuple[str, ...]:
    """Checks the special tokens that the texts of a spec need, and returns notes about those that have no row
    and may never be met. `spec`: with `bos` filled in.

    Raises InvalidSpec for texts that are to begin with BOS where there is none, and UnsupportedCheckpoint for
    a token that would be used and has no row.
    """
    rows = facts.vocabulary
    used = dict(_used(spec, tokens))
    if rows is None:
        return ()
    for role, field in used.items():
        token = tokens.id_of(role)
        if token is not None and token >= rows:
            text, file = tokens.named[role]
            raise _without_row(
                f"{role}_token {text!r} in {file}", token, rows, why=f"{field} puts it into texts"
            )
    for token in sorted(tokens.around) if _marks_texts(spec) else ():
        if token >= rows:
            raise _without_row(
                f"post_processor in {TOKENIZER_JSON}",
                token,
                rows,
                why="the tokenizer puts it around every text",
            )
    stated = ((CONFIG_JSON, facts.config), (GENERATION_CONFIG_JSON, tokens.generation))
    return (
        *_notes(tokens, rows, asks=spec.evaluation.tasks is not None),
        *(note for name, content in stated for note in _stated_beyond(name, content, rows)),
    )


def check_pad_row(facts: ModelFacts) -> None:
    """Raises UnsupportedCheckpoint where config.json pads with a token beyond the rows, and the model's class
    takes it as a row of the embedding: such a model cannot be made. Negative ids, as old conversions have
    them, count from the end."""
    pad, rows = facts.config.get("pad_token_id"), facts.vocabulary
    if not isinstance(pad, int) or isinstance(pad, bool) or rows is None or pad < rows:
        return
    if row_for(facts.model_type).pads_embedding:
        raise _without_row(
            f"pad_token_id in {CONFIG_JSON}",
            pad,
            rows,
            why=f"transformers cannot make a {facts.model_type} of it",
        )


def _used(spec: PruneSpec, tokens: SpecialTokens) -> Iterator[tuple[Role, str]]:
    """Yields the roles whose tokens enter texts, each with the field that asks for it."""
    for found in source_fields(spec, "spec"):
        text, field = found.holder, found.path.removesuffix(".source")
        if isinstance(text, Calibration | PerplexityText | TrainingText):
            packed = isinstance(text, TrainingText) or (
                isinstance(text, Calibration) and text.cut == "packed"
            )
            yield from _used_by(field, text.bos, tokens, ends=packed)
    if isinstance(spec.calibration, SelfCalibration):
        yield from _used_by("spec.calibration", spec.calibration.bos, tokens, ends=True)
    if spec.evaluation.tasks is not None:  # lm-eval begins a text without a question with either of them
        yield "eos" if "bos" in tokens.missing else "bos", "spec.evaluation.tasks"


def _used_by(field: str, bos: str | None, tokens: SpecialTokens, *, ends: bool) -> Iterator[tuple[Role, str]]:
    """Yields the roles that one text uses. `ends`: its documents are ended by EOS."""
    if bos in ("once", "every_window"):
        if "bos" in tokens.missing:
            raise InvalidSpec(
                f"bos {bos} (asked for, or the habit of the model type) puts BOS into the text, and the "
                f"model's tokenizer has none; use bos: none, or set bos_token in its {TOKENIZER_CONFIG_JSON}",
                f"{field}.bos",
            )
        yield "bos", field
    if ends:
        yield "eos", field


def _marks_texts(spec: PruneSpec) -> bool:
    """Tells whether the tokenizer's own tokens around texts are used."""
    calibration = spec.calibration if spec.needs_calibration else None
    marked = (
        isinstance(calibration, Calibration)
        and calibration.cut == "random_window"
        and calibration.bos is None
    )
    writes = isinstance(calibration, SelfCalibration) or spec.evaluation.behaviour is not None
    perplexity = any(text.bos == "tokenizer" for text in spec.evaluation.perplexity)
    return marked or writes or perplexity or spec.evaluation.tasks is not None


def _notes(tokens: SpecialTokens, rows: int, *, asks: bool) -> Iterator[str]:
    beyond = {text: token for text, token in tokens.added.items() if token >= rows}
    pad = tokens.id_of("pad")
    if pad is not None and pad >= rows:
        text = tokens.named["pad"][0]
        beyond.pop(text, None)
        instead = "; tasks are padded with a token that has a row" if asks else ""
        yield f"pad_token {text!r} is token {pad}, and the embedding has {rows} rows{instead}"
    if beyond:
        first = ", ".join(f"{text!r} {token}" for text, token in [*beyond.items()][:SHOWN])
        more = f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
        yield (
            f"the tokenizer has added tokens beyond the {rows} rows of the embedding ({first}{more}); a text "
            f"that holds one of them is refused"
        )


def _stated_beyond(name: str, content: Mapping[str, JsonValue], rows: int) -> Iterator[str]:
    """Yields a note for each role whose ids in a config have no row. `eos_token_id` may be a list."""
    for role in ROLES:
        stated = content.get(f"{role}_token_id")
        for token in stated if isinstance(stated, list) else [stated]:
            if isinstance(token, int) and token >= rows:
                yield f"{role}_token_id {token} in {name} has no row: the embedding has {rows}"


def _without_row(what: str, token: int, rows: int, *, why: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"{what} is token {token}, and the embedding has {rows} rows, 0 to {rows - 1}: {why}; give the model "
        f"a row for it (resize_token_embeddings), or name a token that has one",
        MODEL,
    )


def _vocabulary(tokenizer: Mapping[str, JsonValue]) -> dict[str, int]:
    """Returns the ids of a tokenizer.json's own pieces, for the kinds of models that list them by name or in
    order."""
    model = tokenizer.get("model")
    pieces = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(pieces, dict):
        return {piece: i for piece, i in pieces.items() if isinstance(i, int)}
    if isinstance(pieces, list):
        return {str(piece[0]): i for i, piece in enumerate(pieces) if isinstance(piece, list) and piece}
    return {}


def _content(token: JsonValue) -> str | None:
    """Returns the text of a token, which files state as it is or within an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _object(files: Mapping[str, bytes], name: str) -> Mapping[str, JsonValue]:
    try:
        value = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise IncompleteCheckpoint(f"{name} is not JSON: {error}", MODEL) from error
    if not isinstance(value, dict):
        raise IncompleteCheckpoint(f"{name} must be a JSON object, got {type(value).__name__}", MODEL)
    return value
