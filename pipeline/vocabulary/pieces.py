"""The derivation of tokens, which decides what other tokens a token needs.

Byte-pair encoding repeatedly joins the neighbours that rank first. The merges inside of a token do not depend
on the text around it: a merge that wins in the text also wins among the merges inside of the token. So every
token that a text can yield has one derivation, that of its own characters. A smaller set of merges that
contains whole derivations takes the same steps through every text whose tokens it has: the merge that ranked
first among all merges also ranks first among fewer.

Unigram has no merges: its best segmentation remains the best among fewer, if none of its pieces is removed.

The formulas are those of Sennrich et al. 2016 (BPE), Kudo 2018 (Unigram), and sentencepiece's bpe_model.cc
and unigram_model.cc for ties and unknown characters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

UNKNOWN_EXTREMES = "scores that the penalty of unknown characters and user-defined pieces follow from"
CHARACTERS = "single characters"
BYTES = "bytes"
UNKNOWN = "the unknown token"
ONLY_WAY = "pieces with characters that have none of their own"


class Pieces(Protocol):
    """One model of a tokenizer: text pieces with ids, and their derivations."""

    @property
    def ids(self) -> Mapping[str, int]:
        """Maps pieces to token ids."""
        ...

    def parts(self, piece: str) -> tuple[str, ...] | None:
        """Returns the two pieces that the last merge joins into this one; an empty tuple for a piece that is
        not merged; None for a piece that no text can yield."""
        ...

    def must_stay(self) -> Mapping[int, str]:
        """Returns the ids without which some texts could not be encoded, or would be encoded differently,
        with reasons."""
        ...


@dataclass(frozen=True)
class MergedPieces:
    """BPE that looks up pairs in a list of merges (tokenizer.json, vocab.json with merges.txt).

    `whole`: a word that is a token is taken directly, without merges (`ignore_merges`). `byte_fallback`:
    characters without a token become tokens of their bytes.
    """

    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    whole: bool = False
    byte_fallback: bool = False
    unknown: str | None = None

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    def parts(self, piece: str) -> tuple[str, ...] | None:
        """See Pieces."""
        if len(piece) == 1:
            return ()
        joined = None
        if all(character in self.ids for character in piece):
            joined = last_merge(piece, lambda left, right: self._ranks.get((left, right)))
        return () if joined is None and self.whole else joined

    def must_stay(self) -> Mapping[int, str]:
        """See Pieces."""
        return _characters_and_bytes(self.ids, byte_fallback=self.byte_fallback, unknown=self.unknown)


@dataclass(frozen=True)
class ScoredPieces:
    """SentencePiece's BPE: any two neighbours may merge if their joint text is a piece, the best score first.

    `scores`: of the pieces that texts consist of, including those that are marked as unused; `fixed`: every
    other id, with the name of its type.
    """

    ids: Mapping[str, int]
    scores: Mapping[str, float]
    fixed: Mapping[int, str]

    def parts(self, piece: str) -> tuple[str, ...] | None:
        """See Pieces."""
        if len(piece) == 1 or piece not in self.scores:
            return ()
        return last_merge(piece, self._rank)

    def must_stay(self) -> Mapping[int, str]:
        """See Pieces."""
        return {**_characters_and_bytes(self.ids), **self.fixed}

    def _rank(self, left: str, right: str) -> float | None:
        score = self.scores.get(left + right)
        return None if score is None else -score


@dataclass(frozen=True)
class UnigramPieces:
    """Unigram, from SentencePiece or tokenizer.json: the segmentation with the largest sum of scores."""

    ids: Mapping[str, int]
    scores: Mapping[str, float]
    byte_fallback: bool
    fixed: Mapping[int, str] = field(default_factory=dict)

    def parts(self, piece: str) -> tuple[str, ...] | None:
        """See Pieces."""
        return ()

    def must_stay(self) -> Mapping[int, str]:
        """See Pieces. Unknown characters cost the lowest score plus a constant, user-defined pieces earn the
        highest per character: both would change without the pieces that have these scores."""
        found = dict(_characters_and_bytes(self.ids, byte_fallback=self.byte_fallback))
        if self.scores:
            for extreme in (min(self.scores, key=self._score), max(self.scores, key=self._score)):
                found.setdefault(self.ids[extreme], UNKNOWN_EXTREMES)
        if not self.byte_fallback:
            for piece in self.scores:
                if any(character not in self.ids for character in piece):
                    found.setdefault(self.ids[piece], ONLY_WAY)
        return {**found, **self.fixed}

    def _score(self, piece: str) -> tuple[float, int]:
        return self.scores[piece], self.ids[piece]


def last_merge(piece: Sequence[str], rank: Callable[[str, str], float | None]) -> tuple[str, str] | None:
    """Returns the two texts that are joined last when the characters of a piece are merged, the lowest rank
    and the leftmost first; None when they do not become one. `rank` returns the rank of two neighbours, or
    None when they do not merge."""
    symbols = list(piece)
    ranks = [rank(left, right) for left, right in pairwise(symbols)]
    while True:
        best = min(((r, i) for i, r in enumerate(ranks) if r is not None), default=None)
        if best is None:
            return None
        i = best[1]
        if len(symbols) == 2:
            return symbols[0], symbols[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
        del ranks[i]
        if i > 0:
            ranks[i - 1] = rank(symbols[i - 1], symbols[i])
        if i < len(ranks):
            ranks[i] = rank(symbols[i], symbols[i + 1])


def _characters_and_bytes(
    ids: Mapping[str, int], *, byte_fallback: bool = False, unknown: str | None = None
) -> Mapping[int, str]:
    found = {token: CHARACTERS for piece, token in ids.items() if len(piece) == 1}
    if byte_fallback:
        names = (f"<0x{byte:02X}>" for byte in range(256))
        found.update({ids[name]: BYTES for name in names if name in ids})
    if unknown is not None and unknown in ids:
        found[ids[unknown]] = UNKNOWN
    return found
