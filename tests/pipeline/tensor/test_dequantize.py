"""Weights from codes: against the formulas as loops, and against transformers' own functions."""

import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from pipeline.tensor.dequantize import from_fp8, from_mxfp4

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_mxfp4_is_a_sign_three_bits_and_a_power_of_two() -> None:
    codes = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 16) * 17  # every code in both halves of a byte
    for scale in (1, 100, 127, 130, 252):
        found = from_mxfp4(codes, torch.tensor([[scale]], dtype=torch.uint8))
        sign = [1 if code < 8 else -1 for code in range(16)]
        expected = [sign[code] * MAGNITUDES[code % 8] * 2.0 ** (scale - 127) for code in range(16)]
        assert found.dtype == torch.bfloat16
        assert found.tolist() == [[value for value in expected for _ in range(2)]]
    first = from_mxfp4(torch.full((1, 1, 16), 0x52, dtype=torch.uint8), torch.tensor([[127]]).byte())
    assert first[0, :2].tolist() == [1.0, 3.0]  # the lower half of a byte comes first


def test_mxfp4_without_a_number_is_not_finite() -> None:
    codes = torch.zeros(1, 2, 16, dtype=torch.uint8)
    found = from_mxfp4(codes, torch.tensor([[127, 255]], dtype=torch.uint8))
    assert found[0, :32].eq(0).all()
    assert found[0, 32:].isnan().all()
    largest = from_mxfp4(codes[:, :1] + 0x77, torch.tensor([[254]], dtype=torch.uint8))
    assert largest.isinf().all()


def test_mxfp4_has_transformers_bits() -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 256, (3, 8, 2, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(60, 190, (3, 8, 2), generator=generator, dtype=torch.uint8)
    expected = convert_moe_packed_tensors(codes, scales)  # [E, I, O]
    for expert in range(3):
        assert torch.equal(from_mxfp4(codes[expert], scales[expert]), expected[expert].t())


def test_fp8_has_a_scale_for_each_block() -> None:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(200, 130, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 2, generator=generator)
    found = from_fp8(codes, scales)
    for row in (0, 127, 128, 199):
        for column in (0, 127, 128, 129):
            value = codes[row, column].float() * scales[row // 128, column // 128]
            assert found[row, column] == value.to(torch.bfloat16), (row, column)


def test_fp8_has_transformers_bits() -> None:
    generator = torch.Generator().manual_seed(7)
    codes = torch.randn(256, 128, generator=generator).to(torch.float8_e4m3fn)
    scales = torch.rand(2, 1, generator=generator)
    theirs = Fp8Dequantize(None)._dequantize_one(codes, scales, torch.bfloat16)
    assert torch.equal(from_fp8(codes, scales), theirs)
