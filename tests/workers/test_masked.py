"""Masked linears under torch.compile: as without it, and compiled once for all draws."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from pipeline.tensor.soft_masks import Draw, candidates, key_of, random_logits
from workers.training.masked import MaskedLinear


def two_linears() -> nn.Sequential:
    """32 → 16 → 32, the second stored as GPT-2's are."""
    torch.manual_seed(0)
    stored = nn.Linear(32, 16)
    stored.bias = nn.Parameter(torch.zeros(32))
    masks_CM = candidates(2, 4)
    model = nn.Sequential(
        MaskedLinear(nn.Linear(32, 16), random_logits(128, masks_CM, seed=0), masks_CM, transposed=False),
        nn.ReLU(),
        MaskedLinear(stored, random_logits(128, masks_CM, seed=1), masks_CM, transposed=True),
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith("logits"))
    return model


def test_a_new_draw_compiles_nothing_again() -> None:
    model = two_linears()
    linears = [one for one in model if isinstance(one, MaskedLinear)]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    x = torch.randn(5, 32)
    for step in range(6):
        for number, linear in enumerate(linears):
            linear.masks = "drawn"
            linear.draw = Draw(100.0 + step, 1 / (1 + step), key_of(step, number))
        outcomes = []
        for run in (model, compiled):
            model.zero_grad()
            y = run(x)
            squares = [one.squares for one in linears if one.squares is not None]
            (y.square().sum() - 0.1 * sum(squares)).backward()
            outcomes.append([y, *squares, *(one.logits.grad for one in linears)])
        eager, ours = outcomes
        assert all(torch.equal(one, other) for one, other in zip(eager, ours, strict=True))
    assert counter.frame_count == 1


@pytest.mark.parametrize("masks", ["likeliest", "none"])
def test_what_is_not_drawn_compiles_too(masks: Literal["likeliest", "none"]) -> None:
    model = two_linears()
    for one in model:
        if isinstance(one, MaskedLinear):
            one.masks = masks
    x = torch.randn(5, 32)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x))
