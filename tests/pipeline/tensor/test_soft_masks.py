"""Learnable masks: draws against their formula, gradients against autograd, noise that is what it says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.tensor import soft_masks
from pipeline.tensor.masks import keep_of_groups
from pipeline.tensor.soft_masks import (
    Draw,
    candidates,
    chosen,
    chosen_codes,
    gumbel,
    gumbel_of,
    key_of,
    likelihood,
    masked_weight,
    prior_logits,
    random_logits,
)
from pipeline.tensor.zeros import first_bad_group

SHAPES = [(1, 4), (2, 4), (3, 4), (1, 2), (4, 8), (3, 8), (1, 7)]


def noise_of(shape: tuple[int, int], key: int) -> Tensor:
    """Of all chunks, put together."""
    count, groups = shape
    parts = [
        gumbel(torch.empty(count, min(soft_masks.CHUNK, groups - start)), key_of(key, number))
        for number, start in enumerate(range(0, groups, soft_masks.CHUNK))
    ]
    return torch.cat(parts, dim=1)


def plain(weight_OI: Tensor, logits_CG: Tensor, masks_CM: Tensor, draw: Draw) -> Tensor:
    """The formula, with everything in memory, for autograd."""
    noise_CG = noise_of(tuple(logits_CG.shape), draw.key) if draw.key is not None else 0
    y_CG = ((draw.scale * logits_CG + noise_CG) / draw.temperature).softmax(dim=0)
    mask_OI = (y_CG.t() @ masks_CM.to(y_CG.dtype)).reshape(weight_OI.shape)
    return weight_OI * mask_OI


@pytest.mark.parametrize(("keep", "group"), SHAPES)
def test_candidates_are_all_masks_once(keep: int, group: int) -> None:
    masks_CM = candidates(keep, group)
    assert masks_CM.shape == (math.comb(group, keep), group)
    assert (masks_CM.sum(dim=1) == keep).all()
    assert len({tuple(row) for row in masks_CM.tolist()}) == len(masks_CM)


def test_the_candidates_of_two_of_four() -> None:
    assert ["".join(str(int(one)) for one in row) for row in candidates(2, 4)] == [
        "1100", "1010", "1001", "0110", "0101", "0011",
    ]  # fmt: skip


@pytest.mark.parametrize("groups_per_chunk", [None, 7])
@pytest.mark.parametrize("key", [None, 123456789])
@pytest.mark.parametrize(("keep", "group"), SHAPES)
def test_forward_and_gradient_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, keep: int, group: int, key: int | None, groups_per_chunk: int | None
) -> None:
    if groups_per_chunk is not None:
        monkeypatch.setattr(soft_masks, "CHUNK", groups_per_chunk)
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(6, 5 * group, generator=generator)
    masks_CM = candidates(keep, group)
    logits_CG = (torch.randn(len(masks_CM), 30, generator=generator) * 0.01).requires_grad_()
    draw = Draw(scale=120.0, temperature=0.7, key=key)
    toward_OI = torch.randn(6, 5 * group, generator=generator)

    masked_OI, squares = masked_weight(weight_OI, logits_CG, masks_CM, draw)
    ((masked_OI * toward_OI).sum() - 0.3 * squares).backward()
    ours, logits_CG.grad = logits_CG.grad, None
    expected_OI = plain(weight_OI, logits_CG, masks_CM, draw)
    ((expected_OI * toward_OI).sum() - 0.3 * expected_OI.square().sum()).backward()

    torch.testing.assert_close(masked_OI, expected_OI)
    torch.testing.assert_close(squares, expected_OI.square().sum())
    torch.testing.assert_close(ours, logits_CG.grad, rtol=1e-4, atol=1e-4)


def test_types_stay_and_the_weight_gets_no_gradient() -> None:
    weight_OI = torch.randn(3, 8).bfloat16().requires_grad_()
    logits_CG = torch.zeros(6, 6, dtype=torch.bfloat16, requires_grad=True)
    masked_OI, squares = masked_weight(weight_OI, logits_CG, candidates(2, 4), Draw(1.0, 1.0, 1))
    assert (masked_OI.dtype, squares.dtype) == (torch.bfloat16, torch.float32)
    masked_OI.sum().backward()
    assert weight_OI.grad is None
    assert logits_CG.grad is not None
    assert logits_CG.grad.dtype == torch.bfloat16


def test_nothing_as_large_as_the_candidates_is_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    weight_OI, logits_CG = torch.randn(64, 64), torch.zeros(70, 512, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        masked_weight(weight_OI, logits_CG, candidates(4, 8), Draw(1.0, 1.0, 5))
    assert sorted(kept) == sorted([weight_OI.numel(), logits_CG.numel(), 70 * 8])


def test_operators_are_what_torch_wants_of_them() -> None:
    weight_OI = torch.randn(8, 4).t()
    logits_CG = torch.zeros(6, 8, requires_grad=True)
    arguments = (weight_OI, logits_CG, candidates(2, 4), Draw(1.0, 1.0, 5).numbers)
    torch.library.opcheck(torch.ops.secateur.masked_weight.default, arguments)
    gradients = (torch.randn(4, 8), torch.tensor(0.5))
    detached = (weight_OI, logits_CG.detach(), *arguments[2:])
    torch.library.opcheck(torch.ops.secateur.masked_weight_backward.default, (*gradients, *detached))


@pytest.mark.parametrize("key", [None, 0, 5, 2**63 + 1, 2**64 - 1])
def test_a_draw_is_its_numbers(key: int | None) -> None:
    draw = Draw(scale=123.4, temperature=0.05, key=key)
    assert Draw.of(draw.numbers) == draw


@pytest.mark.parametrize("key", [-1, 2**64])
def test_a_key_has_64_bits(key: int) -> None:
    with pytest.raises(ValueError, match=f"key={key} must be from 0"):
        Draw(1.0, 1.0, key)


def test_logits_of_another_weight_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are \(6, 8\), not \(6, 7\)"):
        masked_weight(torch.zeros(4, 8), torch.zeros(6, 7), candidates(2, 4), Draw(1.0, 1.0, 1))


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (4, 8)])
def test_draws_are_unbiased(keep: int, group: int) -> None:
    """By the Gumbel-max property the largest of a draw is candidate c with probability softmax(scale ·
    logits): a chi-square test over many draws, and the same over steps for one group."""
    count = math.comb(group, keep)
    logits_C = torch.linspace(-0.01, 0.012, count)
    expected_C = (logits_C * 100).softmax(dim=0)
    groups = 60_000
    over_groups = noise_of((count, groups), key_of(7, "one")) + 100 * logits_C[:, None]
    steps = torch.stack([noise_of((count, 1), key_of(0, step, "w"))[:, 0] for step in range(20_000)], dim=1)
    for noisy_Cn in (over_groups, steps + 100 * logits_C[:, None]):
        drawn_C = torch.bincount(noisy_Cn.argmax(dim=0), minlength=count)
        n = noisy_Cn.shape[1]
        chi_square = float(((drawn_C - n * expected_C) ** 2 / (n * expected_C)).sum())
        freedom = count - 1
        assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # 4 standard deviations


def test_noise_is_gumbel_and_its_places_are_independent() -> None:
    noise = noise_of((6, 200_000), key_of(3))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.005)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.01)
    other = noise_of((6, 200_000), key_of(4))
    for one, two in ((noise[0], noise[1]), (noise[0][1:], noise[0][:-1]), (noise[0], other[0])):
        assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 0.01


def test_noise_is_finite_whatever_the_bits() -> None:
    extremes = gumbel_of(torch.tensor([0, -1, 1, 2**31 - 1, -(2**31), 511, 512, -512], dtype=torch.int32))
    assert torch.isfinite(extremes).all()
    assert float(extremes.max()) == pytest.approx(-math.log(2.0**-24), rel=1e-3)
    assert float(extremes.min()) == pytest.approx(-math.log(math.log(2.0**24)), rel=1e-3)


def test_noise_does_not_depend_on_what_is_drawn_beside_it() -> None:
    whole = gumbel(torch.empty(6, 1000), 99)
    assert torch.equal(gumbel(torch.empty(6, 10), 99), whole[:, :10])


@given(seed=st.integers(0, 2**31), shape=st.sampled_from(SHAPES), strength=st.floats(0.01, 100))
def test_a_prior_reproduces_its_own_mask(seed: int, shape: tuple[int, int], strength: float) -> None:
    keep, group = shape
    saliency_OI = torch.rand(5, 3 * group, generator=torch.Generator().manual_seed(seed))
    keep_OI = keep_of_groups(saliency_OI, keep=keep, group=group)
    logits_CG = prior_logits(keep_OI, candidates(keep, group), strength=strength)
    assert torch.equal(chosen(logits_CG, candidates(keep, group), (5, 3 * group)), keep_OI)
    assert float(logits_CG.mean(dim=0).abs().max()) < 1e-4 * strength


def test_a_prior_of_two_of_four_moves_logits_by_one_unit_of_strength() -> None:
    keep_OI = torch.tensor([[True, True, False, False]])
    logits_CG = prior_logits(keep_OI, candidates(2, 4), strength=3)
    torch.testing.assert_close(logits_CG[:, 0], torch.tensor([0.03, 0, 0, 0, 0, -0.03]))


def test_first_logits_without_a_prior() -> None:
    logits_CG = random_logits(50_000, candidates(2, 4), seed=1)
    assert torch.equal(logits_CG, random_logits(50_000, candidates(2, 4), seed=1))
    assert float(logits_CG.std()) == pytest.approx(0.01, rel=0.01)


@given(seed=st.integers(0, 2**31), shape=st.sampled_from(SHAPES))
def test_chosen_masks_are_whole_groups_and_have_codes(seed: int, shape: tuple[int, int]) -> None:
    keep, group = shape
    masks_CM = candidates(keep, group)
    generator = torch.Generator().manual_seed(seed)
    logits_CG = torch.randint(0, 3, (len(masks_CM), 12), generator=generator).float()  # with ties
    keep_OI = chosen(logits_CG, masks_CM, (4, 3 * group))
    assert first_bad_group(keep_OI, keep=keep, group=group) is None
    codes_G = chosen_codes(logits_CG)
    assert torch.equal(masks_CM[codes_G.long()].reshape(keep_OI.shape), keep_OI)
    firsts = [column.index(max(column)) for column in logits_CG.t().tolist()]
    assert codes_G.tolist() == firsts


def test_likelihood_of_equal_and_of_certain_groups() -> None:
    even = likelihood(torch.zeros(6, 100), 100.0)
    assert (even.entropy, even.certainty, even.groups) == (
        pytest.approx(math.log(6)),
        pytest.approx(1 / 6),
        100,
    )
    sure = torch.zeros(6, 100)
    sure[2] = 10
    assert likelihood(sure, 100.0).certainty == pytest.approx(1)
    assert likelihood(sure, 100.0).entropy == pytest.approx(0, abs=1e-6)
