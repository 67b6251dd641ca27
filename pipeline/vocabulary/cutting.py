"""Cuts a checkpoint's vocabulary: runs the steps in this folder's other files in their order, on the
checkpoint's small files."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.architecture.wrappers import TOKENS
from pipeline.artifacts.vocabulary import KeptTokens, TokenizerProof, VocabularyProof, VocabularyTable
from pipeline.checkpoint.config_json import parse_config
from pipeline.checkpoint.language_model import wrapper_of
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.errors import TextTooShort, UnsupportedCheckpoint
from pipeline.spec.vocabulary import FIELD
from pipeline.vocabulary.choosing import choose_tokens
from pipeline.vocabulary.counting import TokenCounts
from pipeline.vocabulary.loading import LoadedTokenizer, SentencePieceFile, explicit_ids, load_sentencepiece
from pipeline.vocabulary.pieces import Pieces
from pipeline.vocabulary.proof import check_special_tokens, prove_tokenizer
from pipeline.vocabulary.protected import protected_ids
from pipeline.vocabulary.reading import read_pieces, sentencepiece_of
from pipeline.vocabulary.rewriting import rewrite_tokenizer
from pipeline.vocabulary.token_ids import renumbered


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the facts about its tokens. `files`: the checkpoint's small files by name, with all ids
    explicit in config.json; `config`: the original config.json; `rows`: rows of the embedding; `protected`:
    id → the reason why it must stay."""

    files: Mapping[str, bytes]
    config: Mapping[str, JsonValue]
    tokenizer: LoadedTokenizer
    sentencepiece: SentencePieceFile | None
    models: tuple[Pieces, ...]
    protected: Mapping[int, str]
    rows: int

    @property
    def tokens(self) -> int:
        """The number of tokens that the tokenizer has, which is often smaller than the number of rows."""
        return len({token for model in self.models for token in model.ids.values()} | {*self.protected})


def read_vocabulary(files: Mapping[str, bytes]) -> Vocabulary:
    """Reads config.json, generation_config.json and a tokenizer's files, given by name. Raises
    UnsupportedCheckpoint for tokenizers that cannot be cut, and for special tokens without a row."""
    config = parse_config(files.get(CONFIG_JSON, b"{}"))
    assert isinstance(config, dict), "resolve has read it"
    if wrapper_of(config) is not None:
        raise UnsupportedCheckpoint(
            f"the vocabulary of a {config['model_type']}, which is multimodal, cannot be cut: {TOKENS.why}",
            "spec.structure.vocabulary",
        )
    rows = row_for(str(config.get("model_type"))).read(config, "vocab_size")
    if not isinstance(rows, int) or rows < 1:
        raise UnsupportedCheckpoint(
            f"config.json has vocab_size={rows!r}; set it to the rows of the embedding", "spec.model.source"
        )
    named = {**files, CONFIG_JSON: json.dumps(explicit_ids(config)).encode()}
    tokenizer = LoadedTokenizer(files)
    backend = tokenizer.backend
    models = read_pieces(backend, sentencepiece_of(files))
    return Vocabulary(
        files=named,
        config=config,
        tokenizer=tokenizer,
        sentencepiece=load_sentencepiece(files),
        models=models,
        protected=protected_ids(models, backend, named, rows=rows),
        rows=rows,
    )


def kept_tokens(
    vocabulary: Vocabulary, counts: TokenCounts, *, size: int, multiple_of: int = 1
) -> KeptTokens:
    """Chooses the tokens that stay. Raises InvalidSpec as choose_tokens does, and TextTooShort for a corpus
    without tokens."""
    if not counts.total:
        raise TextTooShort(
            f"the corpus of vocabulary.texts has {counts.documents} documents and no token; name a "
            f"longer one",
            f"{FIELD}.texts",
        )
    return choose_tokens(
        counts.tokens_V, vocabulary.models, vocabulary.protected, size=size, multiple_of=multiple_of
    )


def cut_files(vocabulary: Vocabulary, tokens: KeptTokens) -> dict[str, bytes]:
    """Returns the small files of the smaller checkpoint, by name."""
    return rewrite_tokenizer(vocabulary.files, tokens)


def renumbered_fields(vocabulary: Vocabulary, tokens: KeptTokens) -> dict[str, JsonValue]:
    """Returns the fields of config.json that name tokens, with their new ids."""
    config: dict[str, JsonValue] = json.loads(vocabulary.files[CONFIG_JSON])
    changed = renumbered(config, tokens.new_ids)
    named = set(config) - set(vocabulary.config)
    return {name: value for name, value in changed.items() if value != config[name] or name in named}


def prove(
    vocabulary: Vocabulary, files: Mapping[str, bytes], tokens: KeptTokens, texts: Iterable[str]
) -> Iterator[int | VocabularyProof]:
    """Loads the cut `files` and compares. Yields the number of texts compared so far, and finally the
    figures; raises TokenizerBroken and TextTooShort."""
    cut = LoadedTokenizer(files)
    added = check_special_tokens(vocabulary.tokenizer, cut, tokens)
    held = list(texts)
    found: list[TokenizerProof] = []
    pairs = [(vocabulary.tokenizer, cut), (vocabulary.sentencepiece, load_sentencepiece(files))]
    for dense, smaller in pairs:
        if dense is None or smaller is None:
            continue
        for step in prove_tokenizer(held, dense, smaller, tokens):
            if isinstance(step, int):
                yield len(found) * len(held) + step
            else:
                found.append(step)
    yield VocabularyProof(
        tokenizer=found[0], sentencepiece=found[1] if len(found) > 1 else None, added_tokens=added
    )


def table_of(
    vocabulary: Vocabulary, tokens: KeptTokens, counts: TokenCounts, proof: VocabularyProof
) -> VocabularyTable:
    """Returns the figures of a cut."""
    return VocabularyTable(
        dense_rows=vocabulary.rows,
        rows=tokens.rows,
        protected=tokens.protected,
        passing=tokens.passing,
        padding=tokens.padding,
        documents=counts.documents,
        corpus_tokens=counts.total,
        kept_tokens=int(counts.tokens_V[list(tokens.kept)].sum()),
        proof=proof,
    )
