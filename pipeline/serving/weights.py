"""How many weights a model has, by its sizes alone."""

from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.structure.sizes import Sizes, has_experts
from pipeline.structure.widths import widths_outside_of_experts

OF_AN_EXPERT = 3  # its matrices: gate, up and down


def read_weights(row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes) -> int:
    """The weights of all matrices that generating one token reads: those of the blocks, and the head. Norms,
    biases and routers are negligible. Of experts, all are counted, though a token visits few of them.
    `config`: tells which blocks have experts; where blocks were dropped, the first ones stand for those left.
    """
    experts = OF_AN_EXPERT * (sizes.num_experts or 0) * (sizes.moe_intermediate_size or 0) * sizes.hidden_size
    total = sizes.vocab_size * sizes.hidden_size
    for block in range(sizes.num_hidden_layers):
        groups = widths_outside_of_experts(row, config, sizes, block)
        total += sum(entering * sum(leaving) for entering, leaving in groups)
        total += experts if has_experts(row, config, block) else 0
    return total
