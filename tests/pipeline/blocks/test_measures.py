"""What allocations measure, against loops and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.allocations.measures import HillAlpha, Measurements, OutlierRatio, SaliencyMedian
from pipeline.blocks.measures import hill_alpha, measure_linears, median
from pipeline.errors import NumericalError
from tests import oracles


def parts(*tensors: torch.Tensor):
    return [lambda tensor=tensor: tensor for tensor in tensors]


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (9, 9)])
def test_hill_alpha_is_the_loop_over_the_upper_half_of_the_spectrum(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = np.sort(np.linalg.svd(weight.double().numpy(), compute_uv=False) ** 2)
    half = len(values) // 2
    total = 0.0
    for i in range(1, half + 1):
        total += np.log(values[-i] / values[-half - 1])
    assert hill_alpha(weight) == pytest.approx(1 + half / total, rel=1e-4)
    assert hill_alpha(weight * 3) == pytest.approx(hill_alpha(weight), rel=1e-4)


def test_a_heavier_tail_has_a_smaller_alpha() -> None:
    plain = torch.diag(torch.linspace(1, 2, 16))
    heavy = torch.diag(torch.logspace(0, 3, 16))
    assert hill_alpha(heavy) < hill_alpha(plain)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((4, 4), torch.inf), "inf or NaN"),
        (torch.ones(1, 5), "no spectrum"),
        (torch.eye(6), "flat"),
    ],
)
def test_spectra_without_a_tail_are_named(weight: torch.Tensor, message: str) -> None:
    with pytest.raises(NumericalError, match=message):
        hill_alpha(weight)


saliency_lists = st.lists(st.floats(0, 2.0**100, width=32), min_size=1, max_size=60)


@given(saliency_lists, saliency_lists)
def test_median_is_the_lower_one_of_all_linears_together(first: list[float], second: list[float]) -> None:
    pooled = sorted(np.float32(value) for value in (*first, *second))
    expected = pooled[(len(pooled) + 1) // 2 - 1]
    assert median(parts(torch.tensor([first]), torch.tensor([second]))) == float(expected)


def test_a_median_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        median(parts(torch.tensor([[torch.inf, torch.inf, 1.0]])))


def test_outlier_ratios_of_each_linear_have_its_own_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    linears = [torch.rand(4, 6, generator=generator) ** 3, torch.rand(5, 3, generator=generator) * 9]
    each = measure_linears(OutlierRatio(multiplier=2, scope="linear"), [], parts(*linears))
    assert each == pytest.approx([oracles.outlier_ratio([one.numpy()], 2) for one in linears], abs=1e-9)
    whole = measure_linears(OutlierRatio(multiplier=2), [], parts(*linears))
    assert whole == pytest.approx([oracles.outlier_ratio([one.numpy() for one in linears], 2)], abs=1e-9)


def test_hill_alpha_of_a_block_is_the_mean_of_its_linears() -> None:
    linears = [torch.diag(torch.logspace(0, n, 8)) for n in (1, 2)]
    expected = (hill_alpha(linears[0]) + hill_alpha(linears[1])) / 2
    assert measure_linears(HillAlpha(), parts(*linears), []) == pytest.approx([expected])


def test_measurements_of_linears_come_in_the_order_of_the_weights() -> None:
    found = Measurements(
        measure=OutlierRatio(multiplier=5, scope="linear"),
        title="t",
        blocks=(2.0, 4.0),
        linears=({"a": 1.0, "b": 3.0}, {"b": 4.0}),
    )
    assert found.values([{"b": 9, "a": 9}, {"b": 9, "neglected": 9}]) == (3.0, 1.0, 4.0, 4.0)
    plain = Measurements(measure=SaliencyMedian(), title="t", blocks=(2.0, 4.0))
    assert plain.values([{"b": 9}, {"b": 9}]) == (2.0, 4.0)
