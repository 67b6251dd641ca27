"""The documents of a vocabulary that is cut: the size of its corpus, the tokens that stay, and figures for
people."""

from functools import cached_property

from pydantic import RootModel

from pipeline.canonical import Frozen


class CorpusSize(Frozen):
    """The size of the text that was counted; `bytes` in UTF-8."""

    documents: int
    bytes: int


class HeldOutDocuments(RootModel[tuple[str, ...]]):
    """Documents that were held out from counting; the cut tokenizer is proved on them."""


class KeptTokens(Frozen):
    """The smaller vocabulary. `kept`: ids of the dense model, ascending; the new id of a token is its
    position.

    `protected`: how many tokens had to stay; `passing`: how many stay only because others are merged from
    them; `padding`: how many rows no text yields, kept because nothing else was left to reach the size.
    """

    kept: tuple[int, ...]
    padding: int = 0
    protected: int = 0
    passing: int = 0

    @property
    def rows(self) -> int:
        """The number of rows of the smaller embedding."""
        return len(self.kept)

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """Maps old ids to new ids."""
        return {token: new for new, token in enumerate(self.kept)}


class TokenizerProof(Frozen):
    """The figures of a comparison. `identical`: texts that the cut tokenizer returned character for
    character, and `dense_identical` those that the dense one did (normalizers change texts). `same_pieces`:
    texts of kept tokens only, which all got the same pieces in the same order. `bytes`: size of the texts in
    UTF-8; `dense_tokens` and `cut_tokens`: the number of their tokens."""

    texts: int = 0
    identical: int = 0
    dense_identical: int = 0
    same_pieces: int = 0
    bytes: int = 0
    dense_tokens: int = 0
    cut_tokens: int = 0


class VocabularyProof(Frozen):
    """`tokenizer`: the proof with transformers; `sentencepiece`: the proof of tokenizer.model in its own
    library, if there is one; `added_tokens`: how many added tokens were found in their places."""

    tokenizer: TokenizerProof
    sentencepiece: TokenizerProof | None = None
    added_tokens: int


class VocabularyTable(Frozen):
    """`dense_rows`, `rows`: rows of the embedding before and after. Of the tokens that stayed, `protected`
    had to stay, `passing` are only needed for the merges of others, and `padding` are yielded by no text.
    `corpus_tokens`: occurrences that were counted in the `documents`; `kept_tokens`: those of tokens that
    stayed."""

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
        """The share of the corpus' tokens that are still one token."""
        return self.kept_tokens / self.corpus_tokens

    @property
    def dense_tokens_per_byte(self) -> float:
        """The dense tokenizer's tokens per byte of the held-out text."""
        return self.proof.tokenizer.dense_tokens / max(self.proof.tokenizer.bytes, 1)

    @property
    def tokens_per_byte(self) -> float:
        """The cut tokenizer's tokens per byte of the held-out text."""
        return self.proof.tokenizer.cut_tokens / max(self.proof.tokenizer.bytes, 1)
