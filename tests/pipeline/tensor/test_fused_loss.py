"""The loss from hidden states is that from whole logits, with its gradients, whatever the chunks."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.training_recipe import Distillation, LanguageModelling, Objective
from pipeline.tensor import fused_loss as module
from pipeline.tensor.divergence import objective_loss, targets_of
from pipeline.tensor.fused_loss import Output, fused_loss

B, L, H, V = 2, 7, 6, 11
DISTILLATIONS: list[dict[str, Any]] = [
    {},
    {"divergence": "reverse", "temperature": 2.0, "lm_weight": 0.3},
    {"divergence": "jensen_shannon", "top_k": 3},
    {"lm_weight": 1.0},
]
OBJECTIVES: list[Objective] = [LanguageModelling(), *(Distillation(**fields) for fields in DISTILLATIONS)]


def drawn(seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Hidden states and output weights of student and teacher, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, L, H), (V, H), (B, L, H + 1), (V, H + 1))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return (*drawn, torch.randint(0, V, (B, L), generator=generator))


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
@given(seed=st.integers(0, 2**16), rows=st.integers(1, B * L + 1))
def test_equal_to_whole_logits(objective: Objective, cap: float | None, seed: int, rows: int) -> None:
    hidden_BLH, weight_VH, taught_BLH, teacher_VH, tokens_BL = drawn(seed, torch.float64)
    hidden_BLH.requires_grad_()
    weight_VH.requires_grad_()
    student = Output(hidden_BLH.flatten(0, 1), weight_VH, cap)
    teacher = Output(taught_BLH.flatten(0, 1), teacher_VH, cap)
    whole = slice(0, B * L)
    loss, entropy = objective_loss(
        objective,
        student.logits(whole).view(B, L, V),
        tokens_BL,
        teacher_logits_BLV=teacher.logits(whole).view(B, L, V),
    )
    expected = torch.autograd.grad(3 * loss, (hidden_BLH, weight_VH))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", rows * V)
        student = Output(hidden_BLH.flatten(0, 1), weight_VH, cap)
        found, found_entropy = fused_loss(objective, student, targets_of(tokens_BL), teacher)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(found_entropy, entropy.detach())
    assert not found_entropy.requires_grad
    for one, other in zip(torch.autograd.grad(3 * found, (hidden_BLH, weight_VH)), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_the_types_of_the_model(dtype: torch.dtype) -> None:
    """A frozen head gets none, and nothing is computed for them without gradients."""
    hidden_BLH, weight_VH, _, _, tokens_BL = drawn(1, dtype)
    hidden_BLH.requires_grad_()
    student = Output(hidden_BLH.flatten(0, 1), weight_VH)
    loss, _ = fused_loss(LanguageModelling(), student, targets_of(tokens_BL))
    loss.backward()
    assert loss.dtype == torch.float32
    assert hidden_BLH.grad is not None
    assert hidden_BLH.grad.dtype == dtype
    assert weight_VH.grad is None
    reference_BLH = hidden_BLH.detach().float().requires_grad_()
    logits_BLV = reference_BLH @ weight_VH.float().t()
    objective_loss(LanguageModelling(), logits_BLV, tokens_BL)[0].backward()
    assert reference_BLH.grad is not None
    torch.testing.assert_close(hidden_BLH.grad.float(), reference_BLH.grad, atol=2e-2, rtol=2e-2)
    with torch.no_grad():
        silent, _ = fused_loss(LanguageModelling(), student, targets_of(tokens_BL))
    assert not silent.requires_grad


def test_logits_never_stand_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor that the loss makes has more elements than a chunk of logits, but the gradients."""
    hidden_BLH, weight_VH, _, _, tokens_BL = drawn(2, torch.float32)
    hidden_BLH.requires_grad_()
    monkeypatch.setattr(module, "CHUNK", 2 * V)
    sizes: list[tuple[int, ...]] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = function(*args, **(kwargs or {}))
            sizes.extend(tuple(one.shape) for one in (made,) if isinstance(one, torch.Tensor))
            return made

    with Watch():
        student = Output(hidden_BLH.flatten(0, 1), weight_VH)
        fused_loss(LanguageModelling(), student, targets_of(tokens_BL))[0].backward()
    with_vocabulary = [size for size in sizes if size[-1:] == (V,) and len(size) > 1]
    assert with_vocabulary
    assert all(size[0] in (2, H) for size in with_vocabulary), with_vocabulary
