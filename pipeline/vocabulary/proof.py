"""Proves that a cut tokenizer behaves like the dense one, on the tokens that it kept.

Both tokenizers encode and decode every text: the results must be equal, so that a text that the dense one
returns unchanged is returned unchanged. Then runs of kept tokens are taken out of the dense segmentation as
separate texts: if the dense tokenizer encodes such a text with kept tokens only, the cut one must give the
same pieces in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Protocol

from pipeline.artifacts.vocabulary import KeptTokens, TokenizerProof
from pipeline.errors import TextTooShort, TokenizerBroken
from pipeline.vocabulary.counting import batches
from pipeline.vocabulary.loading import LoadedTokenizer

SHOWN = 40  # characters of a text in an error
BATCH_CHARACTERS = 1 << 18


class Codec(Protocol):
    """The part of a tokenizer that the proof needs."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of some ids."""
        ...


def prove_tokenizer(
    texts: Iterable[str], dense: Codec, cut: Codec, tokens: KeptTokens
) -> Iterator[int | TokenizerProof]:
    """Yields the number of texts compared so far, and finally the figures.

    Raises TokenizerBroken with the text and the position where the tokenizers differ, and TextTooShort when
    there is no text.
    """
    figures = TokenizerProof()
    for batch in batches(texts, characters=BATCH_CHARACTERS):
        dense_ids, cut_ids = dense.encode(batch), cut.encode(batch)
        identical = dense_identical = 0
        for text, before, after in zip(batch, dense_ids, cut_ids, strict=True):
            expected, returned = dense.decode(before), cut.decode(after)
            if returned != expected:
                raise _other_text(text, expected, returned)
            identical += returned == text
            dense_identical += expected == text
        figures = TokenizerProof(
            texts=figures.texts + len(batch),
            identical=figures.identical + identical,
            dense_identical=figures.dense_identical + dense_identical,
            same_pieces=figures.same_pieces + _same_pieces(batch, dense_ids, dense, cut, tokens),
            bytes=figures.bytes + sum(len(text.encode()) for text in batch),
            dense_tokens=figures.dense_tokens + sum(map(len, dense_ids)),
            cut_tokens=figures.cut_tokens + sum(map(len, cut_ids)),
        )
        yield figures.texts
    if not figures.texts:
        raise TextTooShort("there is no held-out text to prove the cut tokenizer with; name one")
    yield figures


def check_special_tokens(dense: LoadedTokenizer, cut: LoadedTokenizer, tokens: KeptTokens) -> int:
    """Compares special tokens: added tokens in a text, the tokens around a text, BOS, EOS and others by name,
    and the chat templates, whose texts must be unchanged and whose added tokens must be found. Returns the
    number of added tokens; raises TokenizerBroken."""
    for old_ids, new_ids in ((dense.added, cut.added), (dense.special, cut.special)):
        for name, token in old_ids.items():
            if new_ids.get(name) != tokens.new_ids[token]:
                raise TokenizerBroken(
                    f"{name} has id {new_ids.get(name)} in the cut tokenizer; expected "
                    f"{tokens.new_ids[token]}, which was {token}"
                )
    if dense.chat_templates != cut.chat_templates:
        raise TokenizerBroken("the cut tokenizer has other chat templates than the dense one")
    for text in ("", *dense.added, *dense.chat_templates.values()):
        before, after = dense.encode_whole([text])[0], cut.encode_whole([text])[0]
        if tokens.new_ids.keys() >= set(before):
            check_pieces(text, before, after, tokens)
        ours, theirs = set(dense.added.values()), set(cut.added.values())
        special = [tokens.new_ids[token] for token in before if token in ours]
        if special != [token for token in after if token in theirs]:
            raise TokenizerBroken(f"the cut tokenizer finds other added tokens in {_shown(text)}")
    return len(dense.added)


def check_pieces(text: str, before: Sequence[int], after: Sequence[int], tokens: KeptTokens) -> None:
    """Raises TokenizerBroken unless the cut tokenizer gave the dense one's ids, renumbered."""
    expected = [tokens.new_ids[token] for token in before]
    if expected == list(after):
        return
    same = next((i for i, pair in enumerate(zip(expected, after, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(expected), len(after)) if same is None else same
    old = [tokens.kept[token] if token < len(tokens.kept) else None for token in after[place : place + 3]]
    raise TokenizerBroken(
        f"the cut tokenizer takes {_shown(text)} apart otherwise than the dense one, from its token {place} "
        f"on: {old} instead of {list(before[place : place + 3])} (ids of the dense model)"
    )


def _same_pieces(
    texts: Sequence[str], dense_ids: Sequence[Sequence[int]], dense: Codec, cut: Codec, tokens: KeptTokens
) -> int:
    kept = tokens.new_ids.keys()
    candidates = [text for text, ids in zip(texts, dense_ids, strict=True) if kept >= set(ids)]
    for ids in dense_ids:
        runs = [(stays, [*run]) for stays, run in groupby(ids, kept.__contains__)]
        if len(runs) > 1:
            candidates += [dense.decode(run) for stays, run in runs if stays]
    segmented = zip(candidates, dense.encode(candidates), strict=True)
    compared = [(text, ids) for text, ids in segmented if ids and kept >= set(ids)]
    again = cut.encode([text for text, _ in compared])
    for (text, before), after in zip(compared, again, strict=True):
        check_pieces(text, before, after, tokens)
    return len(compared)


def _other_text(text: str, expected: str, returned: str) -> TokenizerBroken:
    pairs = enumerate(zip(expected, returned, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(returned)))
    return TokenizerBroken(
        f"the cut tokenizer does not give back {_shown(text)} as the dense one does: at character {place} it "
        f"has {_shown(returned[place:])} instead of {_shown(expected[place:])}"
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
