"""The sizes that times are estimated from are those of the models that transformers makes."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.architecture.rows import row_for
from pipeline.planning.shape import shape_of
from pipeline.planning.table import MODELS, model
from pipeline.structure.sizes import sizes_of
from tests.model_configs import EVERY, kind_of, tiny_config


@pytest.mark.parametrize("name", EVERY)
def test_weights_are_those_of_the_model(name: str) -> None:
    config = tiny_config(name)
    row = row_for(kind_of(name))
    stated = config.to_dict()
    shape = shape_of(row, stated, sizes_of(row, stated))
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config)
    blocks = made.get_submodule(row.blocks)
    for block, counted in zip(blocks.children(), shape.blocks, strict=True):
        weights = {
            name: weight.numel()
            for name, weight in block.named_parameters()
            if weight.dim() > 1 and not name.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))
        }
        assert sum(weights.values()) == counted.weights, weights
    assert made.get_input_embeddings().weight.shape[0] == shape.vocabulary
    tied = made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert tied == shape.tied


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("7B", 6.7, 6.6),
        ("13B", 13.0, 12.9),
        ("70B", 70.6, 69.5),
        ("405B", 405.8, 403.7),
        ("8x22B", 140.6, 39.0),
    ],
)
def test_models_of_the_table_have_their_published_sizes(name: str, billions: float, active: float) -> None:
    shape, facts = model(name)
    assert round(shape.weights / 1e9, 1) == billions
    assert round(shape.active / 1e9, 1) == active
    assert facts.parameters == shape.weights
    assert name in MODELS
