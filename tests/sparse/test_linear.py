"""Tests of sparse linears as modules, and of their operator."""

import copy
import os
import warnings
from pathlib import Path

import pytest
import torch

from secateur.sparse import SparseLinear, building, operators, pack
from secateur.sparse.building import NotBuilt
from tests.sparse.weights import Case

CASE = Case(rows=12, columns=70, tokens=6, density=0.4, seed=0)


def linear_of(dtype: torch.dtype = torch.float32) -> SparseLinear:
    return SparseLinear.of(pack(CASE.weight(), values=dtype), torch.arange(12.0))


def test_any_leading_dimensions_and_types_of_inputs() -> None:
    linear = linear_of()
    x = CASE.x().view(2, 3, 70)
    expected = torch.nn.functional.linear(x, CASE.weight(), torch.arange(12.0))
    torch.testing.assert_close(linear(x), expected)
    torch.testing.assert_close(linear(x[0, 0]), expected[0, 0])
    assert linear(x[:, :0]).shape == (2, 0, 12)
    made = linear(x.bfloat16())
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(
        made, torch.nn.functional.linear(x.bfloat16().float(), CASE.weight(), torch.arange(12.0)).bfloat16()
    )
    torch.testing.assert_close(linear(x.transpose(0, 1)), expected.transpose(0, 1))


def test_other_types_of_the_module_do_not_change_the_weight() -> None:
    linear = linear_of(torch.bfloat16)
    before = linear.packed().dense()
    moved = copy.deepcopy(linear).to(torch.float16)
    assert moved.values_dtype == torch.bfloat16
    assert torch.equal(moved.packed().dense(), before)


def test_state_dicts_and_wrong_biases_are_refused() -> None:
    with pytest.raises(TypeError, match="is sparse and is not in a state dict"):
        torch.nn.Sequential(linear_of()).state_dict()
    with pytest.raises(ValueError, match=r"the bias has shape \(3,\), and the weight 12 rows"):
        SparseLinear.of(pack(CASE.weight()), torch.zeros(3))


def test_wrong_inputs_of_the_operator_are_refused() -> None:
    linear = linear_of()
    with pytest.raises(ValueError, match="must be float32 with 9"):
        torch.ops.secateur_sparse.linear(
            torch.ones(1, 64), linear._bits, linear._values, linear._starts, None, 0
        )
    with pytest.raises(ValueError, match="64 elements must follow"):
        torch.ops.secateur_sparse.linear(
            torch.ones(1, 70), linear._bits, linear._values[:-1], linear._starts, None, 0
        )
    with pytest.raises(ValueError, match="needs 13 for 12 rows"):
        torch.ops.secateur_sparse.linear(
            torch.ones(1, 70), linear._bits, linear._values, linear._starts[1:], None, 0
        )


def test_the_operator_keeps_torchs_rules() -> None:
    linear = linear_of(torch.int8)
    parts = (linear._bits, linear._values, linear._starts, linear._scales, linear._group)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.secateur_sparse.linear, (CASE.x(), *parts), test_utils=tests)


def test_torch_compile_takes_it_whole() -> None:
    linear = linear_of()
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(CASE.x()), linear(CASE.x()))


def test_without_a_compiler_torch_computes_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused() -> None:
        building.built(linked_openmp=False)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(operators, "native", refused)
    operators._native.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"run in plain torch.*there is no C.. compiler: none of c"):
            made = linear_of()(CASE.x())
        assert operators.backend() == "torch"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(linear_of()(CASE.x()), made)
    finally:
        operators._native.cache_clear()
    torch.testing.assert_close(made, torch.nn.functional.linear(CASE.x(), CASE.weight(), torch.arange(12.0)))


def test_a_cache_directory_that_others_may_write_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "secateur").mkdir()
    os.chmod(tmp_path / "secateur", 0o777)
    with pytest.raises(NotBuilt, match=r"others may write to .*chmod go-w"):
        building.built(linked_openmp=True)
    os.chmod(tmp_path / "secateur", 0o700)
    if os.geteuid() == 0:
        os.chown(tmp_path / "secateur", 12345, -1)
        with pytest.raises(NotBuilt, match="belongs to another user"):
            building.built(linked_openmp=True)
