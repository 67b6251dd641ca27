"""Solvers against the definitions: OBS by elimination, ADMM against least squares, swaps by loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import NumericalError
from pipeline.methods import Method
from pipeline.methods.admm import Admm
from pipeline.methods.composed import AdmmUpdate, Composed, ObsUpdate
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.tensor.statistics import LinearStatistics
from tests import oracles
from tests.pipeline.methods.test_methods import measured

HALF = Unstructured(sparsity=0.5)


def layer(
    seed: int, *, rows: int = 6, columns: int = 16, tokens: int = 64
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [O, I], and correlated inputs [T, I] of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(rows, columns, generator=generator)
    mixing_II = torch.randn(columns, columns, generator=generator)
    x_TI = torch.randn(tokens, columns, generator=generator) @ mixing_II
    return weight_OI, x_TI * torch.linspace(0.2, 3, columns) + torch.randn(columns, generator=generator)


def output_error(weight_OI: torch.Tensor, new_OI: torch.Tensor, x_TI: torch.Tensor) -> float:
    """||X (W - W')ᵀ||² relative to ||X Wᵀ||²."""
    return float((x_TI @ (weight_OI - new_OI).t()).square().sum() / (x_TI @ weight_OI.t()).square().sum())


@pytest.mark.parametrize("seed", range(5))
def test_sparsegpt_is_optimal_brain_surgeon_one_weight_at_a_time(seed: int) -> None:
    weight_OI, x_TI = layer(seed)
    statistics = measured([x_TI])
    assert statistics.hessian_II is not None
    hessian = statistics.hessian_II.numpy()
    keep, new = oracles.sparsegpt_row_block(weight_OI.numpy(), hessian, weight_OI.numel() // 2, damping=0.01)
    got = SparseGPT().choose(weight_OI, statistics, HALF)
    np.testing.assert_array_equal(got.keep_OI.numpy(), keep)
    np.testing.assert_allclose(got.weight_OI.numpy(), new, rtol=1e-3, atol=1e-4)
    assert got.note is None


@pytest.mark.parametrize("pattern", [HALF, NM(keep=2, group=4), NM(keep=3, group=8)], ids=str)
@pytest.mark.parametrize("mask_from", [Magnitude(), Wanda(), Dsnot()], ids=lambda method: method.kind)
def test_the_obs_update_eliminates_the_weights_of_any_mask(
    mask_from: Magnitude | Wanda | Dsnot, pattern: Pattern
) -> None:
    weight_OI, x_TI = layer(1)
    statistics = measured([x_TI])
    assert statistics.hessian_II is not None
    got = Composed(mask_from=mask_from, update=ObsUpdate()).choose(weight_OI, statistics, pattern)
    assert got.keep_OI.equal(mask_from.choose(weight_OI, statistics, pattern).keep_OI)
    hessian = statistics.hessian_II.numpy()
    for i in range(len(weight_OI)):
        row = oracles.obs_row(weight_OI[i].numpy(), hessian, got.keep_OI[i].numpy(), damping=0.01)
        np.testing.assert_allclose(got.weight_OI[i].numpy(), row, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [HALF, NM(keep=2, group=4)], ids=str)
def test_groups_are_chosen_when_their_turn_comes(pattern: Pattern) -> None:
    """A choice by loops: each group, or the one column block, on weights that carry the errors before it."""
    weight_OI, x_TI = layer(2)
    statistics = measured([x_TI])
    assert statistics.hessian_II is not None
    damped = statistics.hessian_II.numpy().astype(np.float64)
    damped += 0.01 * np.mean(np.diag(damped)) * np.eye(len(damped))
    got = SparseGPT().choose(weight_OI, statistics, pattern)
    weight = weight_OI.numpy().astype(np.float64)
    width = pattern.group if isinstance(pattern, NM) else weight.shape[1]
    for first in range(0, weight.shape[1], width):
        part = weight[:, first : first + width]
        diagonal = np.array([np.linalg.inv(damped[j:, j:])[0, 0] for j in range(first, first + width)])
        score = (part**2 / diagonal).astype(np.float32)
        keep = (
            oracles.keep_nm(score, pattern.keep, pattern.group)
            if isinstance(pattern, NM)
            else oracles.keep_matrix_exact(score, 0.5)
        )
        np.testing.assert_array_equal(got.keep_OI[:, first : first + width].numpy(), keep)
        for j in range(first, first + width):
            inverse = np.linalg.inv(damped[j:, j:])
            for i in range(len(weight)):
                if not keep[i, j - first]:
                    weight[i, j:] -= weight[i, j] / inverse[0, 0] * inverse[0]


@pytest.mark.parametrize("group", ["row", "matrix", "column_block"])
def test_sparsegpt_counts_are_exact_for_every_comparison_group(group: str) -> None:
    weight_OI, x_TI = layer(3, rows=7, columns=30)
    pattern = Unstructured.model_validate(
        {"sparsity": 0.43, "comparison_group": group, "column_block_size": 8}
    )
    keep_OI, new_OI, _ = SparseGPT().choose(weight_OI, measured([x_TI]), pattern)
    assert int((~keep_OI).sum()) == round(7 * 30 * 0.43)
    if group == "row":
        counts = (~keep_OI).sum(dim=1)
        assert int(counts.max() - counts.min()) <= 4  # one per column block
    assert output_error(weight_OI, new_OI, x_TI) < output_error(weight_OI, weight_OI * keep_OI, x_TI)


def test_damping_is_raised_until_there_is_a_factor_and_told() -> None:
    weight_OI, _ = layer(4)
    statistics = measured([torch.ones(8, 16)])
    assert statistics.hessian_II is not None
    statistics.hessian_II[0, 1] = statistics.hessian_II[1, 0] = (
        1.5 * statistics.hessian_II[0, 0]
    )  # indefinite
    got = SparseGPT().choose(weight_OI, statistics, HALF)
    assert got.note == "the Hessian had no Cholesky factor: damping raised from 0.01 to 1"
    assert torch.isfinite(got.weight_OI).all()
    statistics.hessian_II[0, 1] = statistics.hessian_II[1, 0] = 100 * statistics.hessian_II[0, 0]
    with pytest.raises(
        NumericalError, match=r"no Cholesky factor with damping 0.01 to 10.*calibration samples"
    ):
        SparseGPT().choose(weight_OI, statistics, HALF)


@pytest.mark.parametrize("method", [SparseGPT(), Admm(), Composed(), Composed(update=ObsUpdate())], ids=str)
def test_features_that_no_token_lit_and_hessians_that_are_not_finite(method: Method) -> None:
    weight_OI, x_TI = layer(5)
    x_TI[:, 3] = 0
    _, new_OI, _ = method.choose(weight_OI, measured([x_TI]), HALF)
    assert torch.isfinite(new_OI).all()
    x_TI[0, 0] = torch.inf
    with pytest.raises(NumericalError, match="not finite"):
        method.choose(weight_OI, measured([x_TI]), HALF)


@pytest.mark.parametrize("seed", range(3))
def test_admm_comes_to_the_least_squares_of_the_support(seed: int) -> None:
    """Its damping is a ridge: λ times the mean of ones, in units of each feature's squared norm."""
    weight_OI, x_TI = layer(seed)
    statistics = measured([x_TI])
    got = Composed(mask_from=Wanda(), update=AdmmUpdate(iterations=1000)).choose(weight_OI, statistics, HALF)
    gram = (x_TI.double().t() @ x_TI.double()).numpy()
    expected = oracles.ridge_on_support(
        weight_OI.numpy(), gram, got.keep_OI.numpy(), ridge=0.1 * np.diag(gram)
    )
    np.testing.assert_allclose(got.weight_OI.numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pattern", [HALF, NM(keep=2, group=4), Unstructured(sparsity=0.7)], ids=str)
def test_solvers_lower_the_output_error_in_the_known_order(pattern: Pattern) -> None:
    weight_OI, x_TI = layer(6, rows=48, columns=64, tokens=512)
    statistics = measured([x_TI])
    methods = {
        "magnitude": Magnitude(),
        "wanda": Wanda(),
        "wanda_obs": Composed(update=ObsUpdate()),
        "wanda_admm": Composed(update=AdmmUpdate()),
        "sparsegpt": SparseGPT(),
        "admm": Admm(),
    }
    error = {
        name: output_error(weight_OI, method.choose(weight_OI, statistics, pattern).weight_OI, x_TI)
        for name, method in methods.items()
    }
    assert error["wanda_obs"] < error["wanda"] < error["magnitude"]
    assert error["wanda_admm"] < error["wanda"]
    assert error["sparsegpt"] < error["wanda_obs"]
    assert error["admm"] < error["wanda_admm"]


@given(seed=st.integers(0, 10_000), sparsity=st.sampled_from([0.25, 0.5, 0.8]))
def test_swaps_are_those_of_the_loops(seed: int, sparsity: float) -> None:
    weight_OI, x_TI = layer(seed, rows=3, columns=12, tokens=9)
    statistics = measured([x_TI])
    pattern = Unstructured(sparsity=sparsity)
    method = Dsnot(cycles=20, threshold=0.05)
    keep_OI = method.choose(weight_OI, statistics, pattern).keep_OI
    before_OI = Wanda().choose(weight_OI, statistics, pattern).keep_OI
    assert keep_OI.sum(dim=1).equal(before_OI.sum(dim=1))
    assert statistics.input_mean_I is not None
    assert statistics.input_variance_I is not None
    given_statistics = [
        one.double().numpy()
        for one in (statistics.input_mean_I, statistics.input_variance_I, statistics.input_norm_I)
    ]
    for i in range(len(weight_OI)):
        mean, variance, norm = given_statistics
        row = oracles.swap_row(
            weight_OI[i].double().numpy(),
            before_OI[i].numpy(),
            mean,
            variance,
            norm,
            cycles=20,
            threshold=0.05,
        )
        np.testing.assert_array_equal(keep_OI[i].numpy(), row)
        lost = abs(float((weight_OI[i] * ~keep_OI[i]).double() @ statistics.input_mean_I.double()))
        assert (
            lost
            <= abs(float((weight_OI[i] * ~before_OI[i]).double() @ statistics.input_mean_I.double())) + 1e-5
        )


def test_swaps_stay_within_groups_of_nm() -> None:
    weight_OI, x_TI = layer(7, rows=20)
    pattern = NM(keep=2, group=4)
    statistics = measured([x_TI])
    keep_OI = Dsnot(threshold=0).choose(weight_OI, statistics, pattern).keep_OI
    assert (keep_OI.reshape(-1, 4).sum(dim=1) == 2).all()
    assert not keep_OI.equal(Wanda().choose(weight_OI, statistics, pattern).keep_OI)


@given(seed=st.integers(0, 10_000), power=st.sampled_from([0.0, 0.5, 1.0]))
def test_ria_saliency_is_that_of_the_loops(seed: int, power: float) -> None:
    weight_OI, x_TI = layer(seed, rows=4, columns=6, tokens=5)
    weight_OI[1], weight_OI[:, 2] = 0, 0
    statistics = measured([x_TI])
    expected = oracles.ria_saliency(weight_OI.numpy(), statistics.input_norm_I.double().numpy(), power)
    np.testing.assert_allclose(Ria(power=power).saliency(weight_OI, statistics).numpy(), expected, rtol=1e-5)


@given(
    seed=st.integers(0, 1000),
    method=st.sampled_from([Wanda(), Ria(), SparseGPT(), Composed(), Composed(update=ObsUpdate()), Dsnot()]),
)
def test_masks_do_not_depend_on_the_order_of_rows_or_the_unit_of_inputs(seed: int, method: Method) -> None:
    """Powers of two, so that no rounding differs; for the groups in which rows do not compete."""
    weight_OI, x_TI = layer(seed, rows=8)
    pattern = Unstructured(sparsity=0.5, comparison_group="row")
    keep_OI = method.choose(weight_OI, measured([x_TI]), pattern).keep_OI
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    statistics: LinearStatistics = measured([x_TI])
    assert method.choose(weight_OI[order], statistics, pattern).keep_OI.equal(keep_OI[order])
    if method.kind != "dsnot":  # its threshold has a unit
        assert method.choose(weight_OI, measured([x_TI * 4]), pattern).keep_OI.equal(keep_OI)
    assert method.choose(weight_OI * 2, statistics, pattern).keep_OI.equal(keep_OI) or method.kind == "dsnot"
