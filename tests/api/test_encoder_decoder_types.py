"""What docs/models.md says of encoder-decoders."""

from typing import get_args

import pytest

from api.model_types import LACKED, cut, lacking, linears
from pipeline.architecture.encoder_decoder import ENCODER_DECODERS
from pipeline.architecture.parts import Feature
from pipeline.architecture.rows import row_for
from pipeline.errors import InvalidSpec
from pipeline.spec.structure import Structure
from tests.encoder_decoder_configs import ENCODER_DECODERS as CONFIGS


def test_linears_of_both_stacks_are_named_once() -> None:
    cross = "q of cross-attention; k, v of cross-attention; o of cross-attention"
    assert linears(row_for("t5")) == f"q, k, v; o; {cross}; wi; wi_0, wi_1; wo"


def test_every_feature_that_a_type_may_lack_has_a_name_and_a_line() -> None:
    assert LACKED.keys() == {*get_args(Feature)}
    lines = [*lacking(ENCODER_DECODERS)]
    assert len(lines) == len(ENCODER_DECODERS[0].lacks)
    assert all(line.startswith("- `t5`, `mt5`, `umt5`: no ") for line in lines)


@pytest.mark.parametrize(
    ("size", "half"), [("hidden_size", 16), ("num_attention_heads", 2), ("intermediate_size", 24)]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_what_can_be_cut_is_what_the_table_says(name: str, size: str, half: int) -> None:
    kind, config = CONFIGS[name]
    row = row_for(kind)
    asked = Structure.model_validate({size: half})
    if cut(row, size) == "yes":
        assert getattr(asked.target(row, config), size) == half
        return
    with pytest.raises(InvalidSpec) as refused:
        asked.target(row, config)
    assert (cut(row, size), refused.value.param) == ("no", f"spec.structure.{size}")
