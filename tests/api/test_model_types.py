"""What docs/models.md says can be cut is what a spec may ask for."""

from typing import Any

import pytest

from api.model_types import COLUMNS, FORMATS, cut, linears
from pipeline.architecture.rows import ROWS, row_for
from pipeline.errors import InvalidSpec
from pipeline.spec.structure import Structure
from pipeline.structure.sizes import sizes_of
from tests.encoder_decoder_configs import ENCODER_DECODERS
from tests.model_configs import FAMILIES, KINDS, VARIANTS, tiny_config

# Half of the hidden size of opt-post-norm is the width of its projections, which is refused for that reason.
NAMES = tuple(name for name in (*KINDS, *VARIANTS, *FAMILIES) if name != "opt-post-norm")


def refused(config: dict[str, Any], size: str) -> str | None:
    """Asks for half of a size, and returns the field that a refusal names; None if there is none."""
    row = row_for(config["model_type"])
    half = (getattr(sizes_of(row, config), size) or 2) // 2
    try:
        Structure.model_validate({size: half}).target(row, config)
    except InvalidSpec as error:
        return error.param
    return None


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_cut_is_what_the_table_says(name: str) -> None:
    config = tiny_config(name).to_dict()
    row = row_for(config["model_type"])
    for _, size in COLUMNS:
        if getattr(sizes_of(row, config), size) == 1:
            continue  # a single one cannot be halved
        said, _, excepted = cut(row, size).partition(", not with ")
        expected = said in ("yes", "with heads") or (said == "with hidden" and size == "num_attention_heads")
        if said == "with `new_decoder_architecture`":
            expected = bool(config["new_decoder_architecture"])
        if excepted and any(one.holds(config) for one in row.fixed if size in one.sizes):
            expected = False
        assert refused(config, size) == (None if expected else f"spec.structure.{size}"), cut(row, size)


def test_every_condition_of_the_table_is_met_and_not_met_by_some_tiny_model() -> None:
    configs = [tiny_config(name).to_dict() for name in NAMES]
    configs += [{"model_type": kind, **config} for kind, config in ENCODER_DECODERS.values()]
    for row in ROWS.values():
        own = [one for one in configs if one["model_type"] == row.model_type]
        for fixed in row.fixed:
            states = {fixed.holds(one) for one in own}
            assert states == ({True, False} if fixed.where is not None else {True}), row.model_type
        if row.grouped is not None:
            assert {bool(one.get(row.grouped)) for one in own} == {True, False}, row.model_type


def test_the_formats_are_of_known_types() -> None:
    for types in FORMATS.values():
        assert {*types} <= {*ROWS}


def test_linears_have_short_names() -> None:
    assert linears(row_for("phi3")) == "qkv; o; gate_up; down"
    assert linears(row_for("starcoder2")) == "q, k, v; o; c_fc; c_proj"
    assert linears(row_for("qwen2_moe")).endswith(
        "gate, up of the shared expert; down of the shared expert; gate, up of every expert; down of every "
        "expert"
    )
