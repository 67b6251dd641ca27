"""Slices of tensors that hold all experts of a block: names, places, and the tensors that they make."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.architecture.row import Experts
from pipeline.architecture.rows import ROWS, row_for
from pipeline.checkpoint.slices import (
    joined,
    matrix_name,
    parts_of_an_expert,
    place,
    sliced_name,
    slices_of,
    stored_apart,
    values_apart,
)

MIXTURES = sorted(name for name, row in ROWS.items() if row.experts is not None)


@given(
    experts=st.integers(1, 13),
    parts=st.sampled_from([1, 2]),
    inner=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    others=st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_slices_make_the_tensor_again(experts: int, parts: int, inner: list[int], others: int) -> None:
    shape = (experts, parts * inner[0], *inner[1:])
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    slices = dict(slices_of("x.experts.down_proj", shape, parts))
    more = {f"other{i}": (i,) for i in range(others)}
    assert joined({**dict(reversed(slices.items())), **more}) == {
        "x.experts.down_proj": (shape, [*slices]),
        **{name: (shape, [name]) for name, shape in more.items()},
    }
    assert sorted(slices, key=place) == [*slices]
    known = stored_apart([*slices, *more])
    assert known == {"x.experts.down_proj": parts}
    values = dict(values_apart("x.experts.down_proj", tensor, known))
    assert {name: tuple(value.shape) for name, value in values.items()} == slices
    assert torch.equal(torch.cat([value.reshape(-1) for value in values.values()]), tensor.reshape(-1))


@pytest.mark.parametrize("model_type", MIXTURES)
def test_a_matrix_has_one_name_for_each_way_of_storing(model_type: str) -> None:
    row = row_for(model_type)
    experts = row.experts
    assert experts is not None
    for before in ("", "model.layers.10.", "model.language_model.layers.3."):
        for number in (0, 11):
            for linear in (*experts.entering(number), *experts.leaving(number)):
                name = f"{before}{linear}.weight"
                sliced = sliced_name(experts, name)
                assert sliced is not None
                assert matrix_name(experts, sliced) == name
                whole, at = place(sliced)
                assert at[0] == number
                if before:
                    assert parts_of_an_expert(row, whole) == len(at)


def test_other_names_stay() -> None:
    experts = Experts()
    for name in ("mlp.gate.weight", "mlp.shared_experts.up_proj.weight", "self_attn.q_proj.bias"):
        assert sliced_name(experts, name) is None
        assert matrix_name(experts, name) == name
        assert parts_of_an_expert(row_for("deepseek_v3"), f"model.layers.0.{name}") == 0
    assert parts_of_an_expert(row_for("llama"), "model.layers.0.mlp.experts.down_proj") == 0
    assert parts_of_an_expert(row_for("qwen3_moe"), "model.layers.0.mlp.experts.down_proj_blocks") == 0
    assert parts_of_an_expert(row_for("gpt_oss"), "model.layers.0.mlp.experts.down_proj_blocks") == 1
