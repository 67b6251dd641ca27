"""Logits of an opened model are held against those of the checkpoint."""

import pytest
import torch

from pipeline.errors import VerificationFailed
from pipeline.verification.logits import TOLERANCES, compare_logits

LOGITS = torch.arange(12.0).reshape(3, 4) - 20


def test_equal_bits_are_told_from_a_small_difference() -> None:
    assert compare_logits(LOGITS, LOGITS, dtype="float32").words == "logits equal"
    near = LOGITS.clone()
    near[1, 2] += 20 * TOLERANCES["float32"] / 2
    found = compare_logits(near, LOGITS, dtype="float32")
    assert found.largest_difference == pytest.approx(TOLERANCES["float32"] / 2, rel=0.1)
    assert found.words.startswith("logits equal within 5.0e-05")


def test_a_difference_above_the_tolerance_is_named() -> None:
    far = LOGITS.clone()
    far[1, 2] += 1
    with pytest.raises(VerificationFailed, match="at token 1 of the prompt, logit 2 is -13 and should be"):
        compare_logits(far, LOGITS, dtype="bfloat16")
    with pytest.raises(VerificationFailed, match="field vocab_size"):
        compare_logits(far[:, :3], LOGITS, dtype="float32")
    far[0, 0] = torch.inf
    with pytest.raises(VerificationFailed, match="not finite in float16"):
        compare_logits(far, LOGITS, dtype="float16")
