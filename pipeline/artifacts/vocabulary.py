"""The documents of a vocabulary that is cut: counts, kept tokens, and figures for people."""

from functools import cached_property

from pydantic import RootModel

from pipeline.canonical import Frozen


class CorpusSize(Frozen):
    """The size of the text that was counted. `bytes`: in UTF-8."""

    documents: int
    bytes: int


class HeldOutDocuments(RootModel[tuple[str, ...]]):
    """The documents that were not counted; the cut tokenizer is proved on them."""


class KeptTokens(Frozen):
    """The smaller vocabulary. `kept`: ids of the dense model, ascending; a token's new id is its place here.

    `protected`: number of tokens that had to stay; `passing`: number of those that stay only because others
    are merged from them; `padding`: number of rows that no text yields, where no other token was left to
    reach the size.
    """

    kept: tuple[int, ...]
    padding: int = 0
    protected: int = 0
    passing: int = 0

    @property
    def rows(self) -> int:
        """The rows of the smaller embedding."""
        return len(self.kept)

    @cached_property
    def new_ids(self) -> dict[int, int]:
        """Old id → new id."""
        return {token: new for new, token in enumerate(self.kept)}


class TokenizerProof(Frozen):
    """The outcome of a comparison of both tokenizers. `identical`: texts that the cut tokenizer decodes
    character for character, and `dense_identical` those of the dense one (normalizers change texts).
    `same_pieces`: texts of kept tokens only, which all got the same pieces in the same order. `bytes`: size
    of the texts in UTF-8; `dense_tokens` and `cut_tokens`: number of tokens that the texts became.
    """

    texts: int = 0
    identical: int = 0
    dense_identical: int = 0
    same_pieces: int = 0
    bytes: int = 0
    dense_tokens: int = 0
    cut_tokens: int = 0


class VocabularyProof(Frozen):
    """The proof of a cut tokenizer. `tokenizer`: as transformers runs it; `sentencepiece`: tokenizer.model in
    its own library, if there is such a file; `added_tokens`: number of those that were found in their
    places."""

    tokenizer: TokenizerProof
    sentencepiece: TokenizerProof | None = None
    added_tokens: int


class VocabularyTable(Frozen):
    """The figures of a cut. `dense_rows`, `rows`: rows of the embedding before and after. Of the tokens that
    stayed, `protected` had to, others are merged from the `passing` ones, and no text yields the `padding`.
    `corpus_tokens`: tokens counted in all `documents`; `kept_tokens`: those among them that stayed."""

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
        """The tokens per byte of the held-out text with the dense tokenizer."""
        return self.proof.tokenizer.dense_tokens / max(self.proof.tokenizer.bytes, 1)

    @property
    def tokens_per_byte(self) -> float:
        """The tokens per byte of the held-out text with the cut tokenizer."""
        return self.proof.tokenizer.cut_tokens / max(self.proof.tokenizer.bytes, 1)
