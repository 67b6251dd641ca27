"""Vocabularies of the tokenizers that are trained here, and token counts with values that a test chooses."""

from collections.abc import Sequence
from functools import cache

import torch

from pipeline.vocabulary.counting import TokenCounts
from pipeline.vocabulary.cutting import Vocabulary, read_vocabulary
from tests.pipeline.vocabulary.tokenizers import tokenizer_files


@cache
def dense(kind: str) -> Vocabulary:
    return read_vocabulary(tokenizer_files(kind))


def counts(frequencies: Sequence[int]) -> TokenCounts:
    return TokenCounts(torch.tensor(frequencies, dtype=torch.int64), documents=1)
