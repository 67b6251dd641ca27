"""Rounding against its definition, and against the library that packs; zeros stay zeros."""

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InvalidSpec
from pipeline.methods.gptq import GptqRounding
from pipeline.spec.patterns import Unstructured
from pipeline.spec.quantization import Gptq
from pipeline.tensor.obs import inverse_factor
from pipeline.tensor.rounding import fp8_scales, integer_scales, nearest, round_by_obs
from tests import oracles
from tests.pipeline.methods.test_methods import measured

NOTHING = Unstructured(sparsity=0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def layer(seed: int, *, rows: int = 6, columns: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight [O, I] of which a half is zero, and correlated inputs [T, I] of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    weight_OI = torch.randn(rows, columns, generator=generator)
    weight_OI[torch.rand(rows, columns, generator=generator) < 0.5] = 0
    mixing_II = torch.randn(columns, columns, generator=generator)
    x_TI = torch.randn(4 * columns, columns, generator=generator) @ mixing_II
    return weight_OI, x_TI * torch.linspace(0.2, 3, columns)


def error(x_TI: torch.Tensor, one_OI: torch.Tensor, other_OI: torch.Tensor) -> float:
    """||X (W - W')ᵀ||²."""
    return float((x_TI @ (one_OI.float() - other_OI.float()).t()).square().sum())


@pytest.mark.parametrize("group_size", [32, None])
@pytest.mark.parametrize("bits", [4, 8])
def test_gptq_is_the_loop_of_its_definition(bits: int, group_size: int | None) -> None:
    weight_OI, x_TI = layer(bits, columns=160)  # more than one column block
    statistics = measured([x_TI])
    assert statistics.hessian_II is not None
    # The largest weight lies between two codes, and a last bit would decide: not with another scale.
    scale_OG = integer_scales(weight_OI, bits=bits, group_size=group_size) * 1.01
    factor = inverse_factor(statistics.hessian_II, damping=0.01)
    got_OI = round_by_obs(weight_OI, factor, scale_OG, bits=bits)
    for i, row_I in enumerate(weight_OI):
        wanted = oracles.gptq_row(
            row_I.numpy(), statistics.hessian_II.numpy(), scale_OG[i].numpy(), bits=bits, damping=0.01
        )
        np.testing.assert_allclose(got_OI[i].numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert bool((got_OI[weight_OI == 0] == 0).all())
    width = group_size or 160
    plain_OI = nearest(weight_OI, scale_OG.repeat_interleave(width, dim=1), bits=bits)
    assert error(x_TI, got_OI, weight_OI) < error(x_TI, plain_OI, weight_OI)


@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from([4, 8]),
    dtype=st.sampled_from(DTYPES),
    group_size=st.sampled_from([32, None]),
    exponent=st.integers(-12, 4),
)
def test_zeros_stay_zero_and_codes_can_be_told_from_the_rounded_weights(
    seed: int, bits: int, dtype: torch.dtype, group_size: int | None, exponent: int
) -> None:
    """Also in the narrow type in which the walk stores weights, with one row of zeros and a dead feature."""
    weight_OI, x_TI = layer(seed, rows=4)
    weight_OI[2] = 0
    x_TI[:, 5] = 0
    weight_OI = (weight_OI * 2.0**exponent).to(dtype)
    form = Gptq(weights="int4" if bits == 4 else "int8", group_size=group_size)
    keep_OI, stored_OI, _ = GptqRounding(form=form).choose(weight_OI, measured([x_TI]), NOTHING)
    assert keep_OI.equal(weight_OI != 0)
    assert stored_OI.dtype == dtype
    assert bool((stored_OI[~keep_OI] == 0).all())
    scale_OG = integer_scales(weight_OI, bits=bits, group_size=group_size)
    wide_OI = scale_OG.float().repeat_interleave(group_size or 64, dim=1)
    exact_OI = nearest(stored_OI, wide_OI, bits=bits)
    steps_OI = (stored_OI.float() - exact_OI).abs() / wide_OI
    assert float(steps_OI.max()) < 0.499  # half a step would be another code


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_nearest_codes_are_those_of_the_library(dtype: torch.dtype) -> None:
    weight_OI = layer(3, rows=16)[0].to(dtype)
    scale_OG = integer_scales(weight_OI, bits=4, group_size=32)
    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=32)
    codes_OI = quantize(weight_OI.float(), scale_OG.float(), None, args, dtype=torch.int8)
    ours_OI = nearest(weight_OI, scale_OG.repeat_interleave(32, dim=1), bits=4)
    assert ours_OI.equal(codes_OI.float() * scale_OG.float().repeat_interleave(32, dim=1))
    assert int(codes_OI.min()) >= -8
    assert int(codes_OI.max()) == 7


def test_scales_are_never_zero_and_reach_the_largest_weight() -> None:
    weight_OI = torch.zeros(2, 64, dtype=torch.float16)
    weight_OI[1, 3] = -30.0
    scale_OG = integer_scales(weight_OI, bits=4, group_size=32)
    assert scale_OG.dtype == torch.float16
    assert bool((scale_OG > 0).all())
    assert float(scale_OG[1, 0]) == pytest.approx(30 / 7.5)
    assert fp8_scales(weight_OI, by_row=True).shape == (2, 1)
    assert float(fp8_scales(weight_OI, by_row=False)) == pytest.approx(30 / 448, rel=1e-3)


def test_rows_that_do_not_divide_into_groups_are_refused_with_what_would() -> None:
    weight_OI, x_TI = layer(1)
    with pytest.raises(InvalidSpec, match=r"group_size 128 does not divide the 64 .* use 64 or 32, or null"):
        GptqRounding(form=Gptq(group_size=128)).choose(weight_OI, measured([x_TI]), NOTHING)
