"""Documents become tokens: calibration samples, and the windows of a perplexity.

Shapes: N samples, L sequence_length, T tokens of a whole text.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.canonical import digest_of, sha256_hex
from pipeline.checkpoint.layout import CONFIG_JSON, TOKENIZER_FILES, is_template
from pipeline.errors import InvalidSpec, TextTooShort
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.texts import Calibration
from pipeline.storage.content import ContentStore

SEARCH_AFTER = 1000  # consecutive draws of documents that are too short, before all documents are searched


class Tokenizer(Protocol):
    """The part of transformers' tokenizers that is used."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a text."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a document."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """Returns the text of a token."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """Returns the id of a token, or that of the unknown token."""
        ...

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Mapping[str, list[int]]:
        """Returns the `input_ids` of a text. `verbose`: warn about texts longer than the model's
        positions."""
        ...


def materialise_tokenizer(ref: CheckpointRef, content: ContentStore, directory: Path) -> None:
    """Writes the files of a checkpoint that `AutoTokenizer.from_pretrained(directory)` needs."""
    for file in ref.files:
        if file.path in (CONFIG_JSON, *TOKENIZER_FILES) or is_template(file.path):
            (directory / file.path).parent.mkdir(exist_ok=True)
            (directory / file.path).write_bytes(content.get_bytes(file.blob))


def tokenizer_digest(ref: CheckpointRef) -> str:
    """Returns a digest over the tokenizer's files alone: pruning does not change it."""
    return digest_of({file.path: file.blob.digest for file in ref.files if file.path in TOKENIZER_FILES})


def begin_token(tokenizer: Tokenizer, *, field: str) -> int:
    """Returns the id of BOS. Raises InvalidSpec that names `field`, the part of the spec whose `bos` needs
    it, when the tokenizer has none."""
    if tokenizer.bos_token_id is None:
        raise InvalidSpec(
            "the text is to begin with BOS (asked for, or the habit of the model type), and the model's "
            "tokenizer has none; use bos: none, or set bos_token in its tokenizer_config.json",
            f"{field}.bos",
        )
    return tokenizer.bos_token_id


def cut_samples(documents: Iterable[str], tokenizer: Tokenizer, calibration: Calibration) -> Tensor:
    """Returns calibration samples, int64 [N, L]. Raises TextTooShort when the documents do not yield them,
    and InvalidSpec when the tokenizer lacks BOS or EOS that they need."""
    held = list(documents)
    if calibration.cut == "random_window":
        samples_NT = _random_windows(held, tokenizer, calibration)
    else:
        samples_NT = _packed_windows(held, tokenizer, calibration)
    return _begun(samples_NT, tokenizer, calibration)


def cut_held_out(
    documents: Iterable[str], tokenizer: Tokenizer, calibration: Calibration, *, samples: int
) -> Tensor:
    """Returns `samples` further samples, int64 [N, L], which share no text with the calibration samples.
    Raises the errors of `cut_samples`.

    `random_window` continues to draw, among the documents that calibration did not use; `packed` takes the
    windows that come next.
    """
    held = list(documents)
    if calibration.cut == "random_window":
        all_NT = _random_windows(held, tokenizer, calibration, held_out=samples)
    else:
        more = calibration.model_copy(update={"samples": calibration.samples + samples})
        all_NT = _packed_windows(held, tokenizer, more)
    return _begun(all_NT[calibration.samples :], tokenizer, calibration)


class TokenisedText(NamedTuple):
    """`tokens_T`: int64 [T]; `digest` and `bytes`: digest and size of their text in UTF-8."""

    tokens_T: Tensor
    digest: str
    bytes: int

    @property
    def tokens_per_byte(self) -> float:
        """The mean number of tokens per byte of this text."""
        return len(self.tokens_T) / self.bytes


def perplexity_tokens(text: PerplexityText, documents: Iterable[str], tokenizer: Tokenizer) -> TokenisedText:
    """Returns a text as tokens; with `bos` `once` or `every_window` the first one is BOS. Raises TextTooShort
    when not even one window can be cut from them, and InvalidSpec when the tokenizer lacks BOS that is asked
    for."""
    joined = _joined(documents, text.join, limit=text.characters)
    ids = _ids(tokenizer, joined, special=text.bos in (None, "tokenizer"))
    if text.bos in ("once", "every_window"):
        ids = [begin_token(tokenizer, field="spec.evaluation.perplexity"), *ids]
    tokens_T = torch.tensor(ids, dtype=torch.int64)
    if len(tokens_T) < text.sequence_length:
        raise TextTooShort(
            f"{text.source} gives {len(tokens_T)} tokens from {len(joined)} characters, fewer than one "
            f"window of sequence_length {text.sequence_length}; use a longer text, more characters or a "
            f"shorter sequence_length",
            "spec.evaluation.perplexity",
        )
    data = joined.encode()
    return TokenisedText(tokens_T, sha256_hex(data), len(data))


def perplexity_windows(text: PerplexityText, tokens_T: Tensor) -> list[tuple[Tensor, int]]:
    """Returns the windows [L] of a text, and how many of their last tokens count.

    Every token is scored once, in the first window that predicts it: L - 1 tokens of the first window (its
    first one has no context), and of a later one the `stride` tokens that its predecessors did not reach.

    With `bos: every_window`, the first of `tokens_T` is BOS. It stands in front of each window, and the other
    tokens are cut into pieces of L - 1. BOS is the context of a piece's first token, so all L - 1 tokens of
    the first window count, and the `stride` new ones of a later one: without overlap, all of every window.
    """
    length = text.text_length
    stride = text.stride or length
    front_T = tokens_T[: text.sequence_length - length]
    rest_T = tokens_T[len(front_T) :]
    starts = range(0, len(rest_T) - length + 1, stride)[: text.windows]
    predicted = text.sequence_length - 1
    return [
        (torch.cat((front_T, rest_T[i : i + length])), min(predicted, stride) if i else predicted)
        for i in starts
    ]


def _random_windows(
    documents: list[str], tokenizer: Tokenizer, calibration: Calibration, *, held_out: int = 0
) -> Tensor:
    """Draws like Wanda, SparseGPT and OWL: documents until one is long enough, then a start in it. Returns
    the text of the samples, without the BOS that `every_window` puts in front.

    The order of calls on `random` is theirs, so that equal seeds give equal samples. The `held_out` samples
    come after the others, from other documents.
    """
    length = calibration.text_length
    lengths: dict[int, int] = {}
    long: dict[int, Tensor] = {}  # int32, because a document may be a whole book
    taken: set[int] = set()

    def is_long(i: int) -> bool:
        if i not in lengths:
            ids = _document_ids(tokenizer, documents[i], calibration, special=calibration.bos is None)
            lengths[i] = len(ids)
            if len(ids) > length:
                long[i] = torch.tensor(ids, dtype=torch.int32)
        return i in long

    def is_left(i: int) -> bool:
        return is_long(i) and i not in taken

    if not documents:
        raise _no_document(calibration, longest=0)
    rng = random.Random(calibration.seed)
    samples_NL = torch.empty(calibration.samples + held_out, length, dtype=torch.int64)
    for n in range(len(samples_NL)):
        calibrates = n < calibration.samples
        i = _draw(rng, len(documents), is_long if calibrates else is_left)
        if i is None and not calibrates:
            raise _nothing_left(calibration, taken=len(taken))
        if i is None:
            raise _no_document(calibration, longest=max(lengths.values()))
        if calibrates:
            taken.add(i)
        start = rng.randint(0, lengths[i] - length - 1)
        samples_NL[n] = long[i][start : start + length]
    return samples_NL


def _draw(rng: random.Random, count: int, is_long: Callable[[int], bool]) -> int | None:
    """Returns a random document that is long enough; None when there is none at all."""
    misses = 0
    while not is_long(i := rng.randint(0, count - 1)):
        misses += 1
        if misses == SEARCH_AFTER and not any(is_long(j) for j in range(count)):
            return None
    return i


def _no_document(calibration: Calibration, *, longest: int) -> TextTooShort:
    return TextTooShort(
        f"{calibration.source} has no document of more than {calibration.text_length} tokens, as cut "
        f"random_window needs; the longest has {longest}. Use longer documents (documents: file takes a .txt "
        f"as one), a sequence_length below {max(longest, 3)}, or cut: packed",
        "spec.calibration.sequence_length",
    )


def _nothing_left(calibration: Calibration, *, taken: int) -> TextTooShort:
    return TextTooShort(
        f"a tournament scores on documents that calibration does not use, and the {taken} documents of "
        f"{calibration.source} with more than {calibration.text_length} tokens are all taken; use a "
        f"source with more of them, fewer calibration samples, a shorter sequence_length, or cut: packed",
        "spec.calibration.samples",
    )


def _packed_windows(documents: list[str], tokenizer: Tokenizer, calibration: Calibration) -> Tensor:
    """Joins all documents, each ended by EOS, into one row, and returns consecutive windows of it in random
    order, without the BOS that `every_window` puts in front."""
    eos = tokenizer.eos_token_id
    if eos is None:
        raise InvalidSpec(
            "cut: packed joins documents with EOS, and the model's tokenizer has none; "
            "use cut: random_window",
            "spec.calibration.cut",
        )
    length = calibration.text_length
    pieces = [
        torch.tensor(
            [*_document_ids(tokenizer, document, calibration, special=False), eos], dtype=torch.int32
        )
        for document in documents
    ]
    row_T = torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.int32)
    windows = len(row_T) // length
    if windows < calibration.samples:
        raise TextTooShort(
            f"{calibration.source} gives {len(row_T)} tokens, and {calibration.samples} samples of "
            f"{length} need {calibration.samples * length}; use a longer text or fewer "
            f"samples (at most {windows})",
            "spec.calibration.samples",
        )
    order = list(range(windows))
    random.Random(calibration.seed).shuffle(order)
    chosen = torch.tensor(order[: calibration.samples])
    return row_T[: windows * length].view(windows, length)[chosen].to(torch.int64)


def _begun(samples_NT: Tensor, tokenizer: Tokenizer, calibration: Calibration) -> Tensor:
    """Returns the samples [N, L], each with BOS in front of its text if the calibration asks for it."""
    if calibration.bos != "every_window":
        return samples_NT
    bos = begin_token(tokenizer, field="spec.calibration")
    return torch.cat((torch.full((len(samples_NT), 1), bos, dtype=samples_NT.dtype), samples_NT), dim=1)


def _document_ids(
    tokenizer: Tokenizer, document: str, calibration: Calibration, *, special: bool
) -> list[int]:
    ids = _ids(tokenizer, document, special=special)
    return [begin_token(tokenizer, field="spec.calibration"), *ids] if calibration.bos == "once" else ids


def _ids(tokenizer: Tokenizer, text: str, *, special: bool) -> list[int]:
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def _joined(documents: Iterable[str], join: str, *, limit: int | None) -> str:
    """Returns the documents as one text of at most `limit` characters; reads no further than that."""
    pieces: list[str] = []
    size = 0
    for document in documents:
        if pieces:
            pieces.append(join)
            size += len(join)
        pieces.append(document)
        size += len(document)
        if limit is not None and size >= limit:
            break
    return "".join(pieces)[:limit]
