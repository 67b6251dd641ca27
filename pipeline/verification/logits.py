"""Compares the logits of an opened model with those of the checkpoint that it was made of."""

import torch
from torch import Tensor

from pipeline.artifacts.verification import OpenedLogits
from pipeline.errors import VerificationFailed

# Shares of the largest logit. On one machine the bits are equal; another number of threads, or weights at
# other addresses, may sum in another order.
TOLERANCES = {"float32": 1e-4, "bfloat16": 2**-6, "float16": 2**-9, "float64": 1e-9}


def compare_logits(opened_LV: Tensor, streamed_LV: Tensor, *, dtype: str) -> OpenedLogits:
    """Returns the difference of two tensors [L tokens, V vocabulary] of the type `dtype`. Raises
    VerificationFailed when it is above the tolerance of that type, or a logit is not finite."""
    if opened_LV.shape != streamed_LV.shape:
        raise VerificationFailed(
            f"config.json makes logits {list(opened_LV.shape)}, and the checkpoint makes "
            f"{list(streamed_LV.shape)} (field vocab_size)"
        )
    if not bool(torch.isfinite(opened_LV).all()):
        raise VerificationFailed(
            f"the opened model's logits are not finite in {dtype} (config.json, field dtype): its values do "
            f"not fit into that type"
        )
    opened, streamed = opened_LV.double(), streamed_LV.double()
    apart = (opened - streamed).abs()
    share = float(apart.max() / streamed.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    tolerance = TOLERANCES[dtype]
    if share > tolerance:
        token, row = divmod(int(apart.argmax()), apart.shape[1])
        raise VerificationFailed(
            f"config.json and the weights make another model in transformers than the one that was "
            f"evaluated: at token {token} of the prompt, logit {row} is {float(opened[token, row]):.6g} and "
            f"should be {float(streamed[token, row]):.6g}"
        )
    return OpenedLogits(tokens=opened_LV.shape[0], dtype=dtype, largest_difference=share, tolerance=tolerance)
