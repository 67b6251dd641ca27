"""Distances between distributions and hidden states: the formulas, their gradients, and their limits."""

from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pipeline.spec.training_recipe import Distillation, LanguageModelling
from pipeline.tensor import divergence as module
from pipeline.tensor.divergence import (
    Divergence,
    divergence_each,
    hidden_distance,
    matching_blocks,
    objective_loss,
)
from tests import oracles

KINDS: tuple[Divergence, ...] = get_args(Divergence)
kinds = pytest.mark.parametrize("kind", KINDS)


def logits(*shape: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * spread


@kinds
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("top_k", [None, 1, 3, 10, 11, 99])
def test_is_the_formula(kind: Divergence, temperature: float, top_k: int | None) -> None:
    student, teacher = logits(7, 11), logits(7, 11, seed=1)
    expected = oracles.divergence(student.numpy(), teacher.numpy(), kind, temperature, top_k)
    got = divergence_each(student, teacher, kind, temperature=temperature, top_k=top_k).mean()
    assert got.item() == pytest.approx(expected, rel=1e-10)
    narrow = divergence_each(
        student.bfloat16(), teacher.bfloat16(), kind, temperature=temperature, top_k=top_k
    ).mean()
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(expected, rel=0.1)


@kinds
@pytest.mark.parametrize("top_k", [None, 3])
def test_gradient(kind: Divergence, top_k: int | None) -> None:
    student, teacher = logits(4, 7).requires_grad_(), logits(4, 7, seed=1)

    def loss(student: Tensor) -> Tensor:
        return divergence_each(student, teacher, kind, temperature=1.7, top_k=top_k).mean()

    assert torch.autograd.gradcheck(loss, student)


@kinds
@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(2, 40),
    shift=st.floats(-100, 100),
    spread=st.floats(0, 30),
)
def test_properties(kind: Divergence, seed: int, vocabulary: int, shift: float, spread: float) -> None:
    student = logits(3, vocabulary, seed=seed, spread=spread)
    teacher = logits(3, vocabulary, seed=seed + 1, spread=spread)
    full = divergence_each(student, teacher, kind).mean().item()
    assert full >= -1e-9
    assert divergence_each(student, student, kind).mean().item() == pytest.approx(0, abs=1e-9)
    assert divergence_each(student + shift, teacher - shift, kind).mean().item() == pytest.approx(
        full, abs=1e-7
    )
    coarse = [
        divergence_each(student, teacher, kind, top_k=k).mean().item() for k in range(1, vocabulary + 1)
    ]
    assert coarse[-1] == pytest.approx(full, abs=1e-12)
    assert coarse[-2] == pytest.approx(full, abs=1e-9)  # one token is left: the rest is that one
    assert all(a <= b + 1e-9 for a, b in pairwise(coarse))  # telling more apart adds
    if kind == "jensen_shannon":
        assert divergence_each(teacher, student, kind).mean().item() == pytest.approx(full, abs=1e-9)
        assert full <= 0.6932


@kinds
def test_certain_teachers_leave_nothing_undefined(kind: Divergence) -> None:
    teacher = torch.zeros(2, 50)
    teacher[:, 3] = 1000.0  # all others underflow
    student = logits(2, 50).float().requires_grad_()
    for top_k in (None, 1, 5):
        loss = divergence_each(student, teacher, kind, top_k=top_k).mean()
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()


def test_hidden_distance() -> None:
    teacher = logits(5, 8)
    assert hidden_distance(teacher, teacher).item() == 0
    assert hidden_distance(1.5 * teacher, teacher).item() == pytest.approx(0.25)
    assert torch.isfinite(hidden_distance(torch.zeros(2, 3), torch.zeros(2, 3)))
    student = logits(5, 8, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hidden_distance(x, teacher), student)


def test_matching_blocks() -> None:
    assert matching_blocks(4, 4) == (0, 1, 2, 3)
    assert matching_blocks(2, 4) == (1, 3)
    assert matching_blocks(4, 6) == (1, 2, 4, 5)
    assert matching_blocks(1, 30) == (29,)
    for student in range(1, 12):
        for teacher in range(student, 24):
            matched = matching_blocks(student, teacher)
            assert matched[-1] == teacher - 1
            assert list(matched) == sorted(set(matched))
            assert matched[0] >= 0


def test_objective_is_what_the_spec_says(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = logits(2, 9, 13).requires_grad_(), logits(2, 9, 13, seed=1)
    tokens = torch.randint(0, 13, (2, 9), generator=torch.Generator().manual_seed(2))
    student_hiddens, teacher_hiddens = (
        [logits(2, 9, 4, seed=s) for s in (3, 4)],
        [logits(2, 9, 4, seed=5)] * 2,
    )
    cross_entropy = functional.cross_entropy(student[:, :-1].transpose(1, 2), tokens[:, 1:])
    objective = Distillation(
        divergence="reverse", temperature=2.0, lm_weight=0.25, top_k=6, hidden_weight=0.5
    )
    flat = student[:, :-1].flatten(0, 1), teacher[:, :-1].flatten(0, 1)
    divergence = divergence_each(*flat, "reverse", temperature=2.0, top_k=6).mean()
    hidden = sum(hidden_distance(s, t) for s, t in zip(student_hiddens, teacher_hiddens, strict=True)) / 2
    expected = 0.25 * cross_entropy + 0.75 * divergence + 0.5 * hidden

    for rows in (512, 3):  # in one part, and in several with a rest
        monkeypatch.setattr(module, "ROWS", rows)
        loss, lm_loss = objective_loss(LanguageModelling(), student, tokens)
        torch.testing.assert_close(loss, cross_entropy)
        torch.testing.assert_close(lm_loss, cross_entropy)
        loss, lm_loss = objective_loss(
            objective,
            student,
            tokens,
            teacher_logits_BLV=teacher,
            student_hiddens=student_hiddens,
            teacher_hiddens=teacher_hiddens,
        )
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(lm_loss, cross_entropy)
        torch.testing.assert_close(
            torch.autograd.grad(loss, student), torch.autograd.grad(expected, student, retain_graph=True)
        )
