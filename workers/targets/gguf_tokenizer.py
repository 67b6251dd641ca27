"""Writes the tokenizer of a checkpoint into a GGUF file."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from gguf import GGUFWriter, TokenType
from transformers import AutoTokenizer

from pipeline.errors import UnsupportedCheckpoint
from pipeline.serving.llama_cpp import splitting_of

SPECIAL = ("bos", "eos", "unk", "pad")
SPACE = "\u2581"  # SentencePiece's mark of a space


@dataclass
class _Vocabulary:
    """Tokens by id. `scores` are SentencePiece's; `merges` are those of a byte-level BPE."""

    model: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    splitting: str | None = None


def add_tokenizer(writer: GGUFWriter, directory: Path, *, rows: int) -> None:
    """Add the tokens, with a name for every row of the embedding, and the habits of the tokenizer."""
    vocabulary = _sentencepiece(directory) if (directory / "tokenizer.model").exists() else _bpe(directory)
    _add_added(directory, vocabulary)
    if len(vocabulary.tokens) > rows:
        raise UnsupportedCheckpoint(
            f"the tokenizer has {len(vocabulary.tokens)} tokens, and the embedding {rows} rows: llama.cpp "
            f"refuses ids without a row",
            "spec.model.source",
        )
    for row in range(len(vocabulary.tokens), rows):
        vocabulary.tokens.append(f"[PAD{row}]")
        vocabulary.types.append(TokenType.UNUSED)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.splitting is not None:
        writer.add_tokenizer_pre(vocabulary.splitting)
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores([*vocabulary.scores, *[-10000.0] * (rows - len(vocabulary.scores))])
    _add_habits(writer, directory)


def _bpe(directory: Path) -> _Vocabulary:
    described = json.loads((directory / "tokenizer.json").read_bytes())
    splitting = splitting_of(described, field="spec.target")
    by_id = {number: token for token, number in described["model"]["vocab"].items()}
    by_id |= {added["id"]: added["content"] for added in described["added_tokens"]}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(max(by_id) + 1)]
    types = [TokenType.NORMAL if i in by_id else TokenType.UNUSED for i in range(len(tokens))]
    pairs = described["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    return _Vocabulary("gpt2", tokens, [int(one) for one in types], merges=merges, splitting=splitting)


def _sentencepiece(directory: Path) -> _Vocabulary:
    """The numbers of SentencePiece's types of pieces are GGUF's types of tokens."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((directory / "tokenizer.model").read_bytes())
    pieces = model.pieces
    return _Vocabulary(
        "llama",
        [piece.piece for piece in pieces],
        [int(piece.type) for piece in pieces],
        scores=[float(piece.score) for piece in pieces],
    )


def _add_added(directory: Path, vocabulary: _Vocabulary) -> None:
    """Mark the tokens that the tokenizer takes whole out of a text, and add those beyond its vocabulary."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for number, added in sorted(tokenizer.added_tokens_decoder.items()):
        while number >= len(vocabulary.tokens):
            vocabulary.tokens.append(f"[PAD{len(vocabulary.tokens)}]")
            vocabulary.types.append(TokenType.UNUSED)
        if vocabulary.types[number] in (TokenType.UNKNOWN, TokenType.BYTE):
            continue
        vocabulary.tokens[number] = added.content
        vocabulary.types[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED


def _add_habits(writer: GGUFWriter, directory: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for name in SPECIAL:
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    ids = tokenizer("a").input_ids
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    first = tokenizer.tokenize("a")[0]  # what transformers does counts, whatever SentencePiece's settings say
    writer.add_add_space_prefix(first.startswith(SPACE))
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
