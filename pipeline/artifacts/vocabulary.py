"""The documents of a vocabulary that is cut: what was counted, what stayed, and figures for people."""

from functools import cached_property

from pydantic import RootModel

from pipeline.canonical import Frozen


class CorpusSize(Frozen):
    """How much text was counted; `bytes` in UTF-8."""

    documents: int
    bytes: int


class HeldOutDocuments(RootModel[tuple[str, ...]]):
    """Documents that were not counted; the cut tokenizer is proved on them."""


class KeptTokens(Frozen):
    """The smaller vocabulary. `kept`: ids of the dense model, ascending; the new id of one is its place.

    `protected`: how many had to stay; `passing`: how many stay only because others are merged from them;
    `padding`: how many are rows that no text yields, where nothing else was left to reach the size.
    """

    kept: tuple[int, ...]
    padding: int = 0
    protected: int = 0
    passing: int = 0

    @property
    def rows(self) -> int:
        """Rows of the smaller embedding."""
        return len(self.kept)

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """Old id → new id."""
        return {token: new for new, token in enumerate(self.kept)}


class TokenizerProof(Frozen):
    """What was compared. `identical`: texts that came back from the cut tokenizer character for character,
    and `dense_identical` from the dense one (normalizers change texts). `same_pieces`: texts of kept tokens
    only, which all got the same pieces in the same order. `bytes`: of the texts in UTF-8; `dense_tokens` and
    `cut_tokens`: how many they became.
    """

    texts: int = 0
    identical: int = 0
    dense_identical: int = 0
    same_pieces: int = 0
    bytes: int = 0
    dense_tokens: int = 0
    cut_tokens: int = 0


class VocabularyProof(Frozen):
    """`tokenizer`: as transformers runs it; `sentencepiece`: tokenizer.model in its own library, where there
    is one; `added_tokens`: how many were found in their places."""

    tokenizer: TokenizerProof
    sentencepiece: TokenizerProof | None = None
    added_tokens: int


class VocabularyTable(Frozen):
    """`dense_rows`, `rows`: of the embedding before and after. Of the tokens that stayed, `protected` had to,
    others are merged from the `passing` ones, and no text yields the `padding`. `corpus_tokens`: occurrences
    that were counted in so many `documents`; `kept_tokens`: those of tokens that stayed."""

    dense_rows: int
    rows: int
    protected: int
    passing: int
    padding: int
    documents: int
    corpus_tokens: int
    kept_tokens: int
    proof: VocabularyProof

    @property
    def kept_share(self) -> float:
        """Share of the corpus' tokens that are still one token."""
        return self.kept_tokens / self.corpus_tokens

    @property
    def dense_tokens_per_byte(self) -> float:
        """Of the held-out text, by the dense tokenizer."""
        return self.proof.tokenizer.dense_tokens / max(self.proof.tokenizer.bytes, 1)

    @property
    def tokens_per_byte(self) -> float:
        """Of the held-out text, by the cut tokenizer."""
        return self.proof.tokenizer.cut_tokens / max(self.proof.tokenizer.bytes, 1)
