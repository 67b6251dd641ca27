"""Token counts with values that a test chooses."""

from collections.abc import Sequence

import torch

from pipeline.vocabulary.counting import TokenCounts


def counts(frequencies: Sequence[int]) -> TokenCounts:
    return TokenCounts(torch.tensor(frequencies, dtype=torch.int64), documents=1)
