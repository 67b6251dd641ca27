"""Outlier ratios against the loop of tests/oracles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.errors import NumericalError
from pipeline.tensor.outliers import outlier_ratio
from tests import oracles

# Sixteenths add up without rounding in any order, so a saliency that equals the threshold does so in both.
sixteenths = st.integers(0, 1000).map(lambda n: n / 16)
blocks = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 8)).flatmap(
        lambda shape: npst.arrays(np.float32, shape, elements=sixteenths)
    ),
    min_size=1,
    max_size=4,
)


@given(block=blocks, multiplier=st.sampled_from([0.5, 1.0, 1.5, 3.0, 5.0, 10.0]))
def test_the_ratio_is_that_of_all_linears_together(block: list[np.ndarray], multiplier: float) -> None:
    got = outlier_ratio([torch.from_numpy(saliency) for saliency in block], multiplier)
    assert got == pytest.approx(oracles.outlier_ratio(block, multiplier), rel=0, abs=1e-9)


def test_only_saliencies_above_the_threshold_count() -> None:
    assert outlier_ratio([torch.full((2, 3), 0.3)], 1.0) == 0
    assert outlier_ratio([torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [2.0]])], 1.0) == 25
    assert outlier_ratio([torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0], [2.0]])], 1.5) == 0
    assert outlier_ratio([torch.zeros(2, 2)], 5.0) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_saliencies_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(NumericalError, match="inf or NaN"):
        outlier_ratio([torch.ones(2, 2), torch.tensor([[1.0, bad]])], 5.0)


@pytest.mark.parametrize("saliencies", [[], [torch.ones(0, 4)]])
def test_a_block_without_weights_is_refused(saliencies: list[torch.Tensor]) -> None:
    with pytest.raises(NumericalError, match="without weights"):
        outlier_ratio(saliencies, 5.0)


def test_a_threshold_beyond_float32_is_above_everything() -> None:
    assert outlier_ratio([torch.tensor([[3e38, 1.0]])], 1e6) == 0
