"""Estimates of activations are what autograd keeps, counted on real blocks."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from pipeline.request.resources import TrainingResources
from pipeline.resolve.communication import LEAST, MOST, bucket_of, communication
from pipeline.resolve.training_activations import CHUNK, activation_bytes, is_fused
from pipeline.sources.pins import ModelFacts
from pipeline.spec.recovery import Recovery
from pipeline.tensor import fused_loss
from tests.model_configs import tiny_config

LENGTH = 64


def kept_by_autograd(config: Any, dtype: torch.dtype) -> int:
    """The bytes of everything that the decoder keeps for its backward pass, parameters not counted."""
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.zeros(1, LENGTH, dtype=torch.long))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_what_blocks_keep(kind: str, precision: str) -> None:
    config = tiny_config(kind)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    text = {"source": "file:/x.txt", "sequence_length": LENGTH, "validation_sequences": 1}
    recovery = Recovery.model_validate({"text": text, "steps": 1, "precision": precision})
    facts = ModelFacts(
        model_type=kind,
        blocks=config.num_hidden_layers,
        max_positions=None,
        hidden_size=config.hidden_size,
        config=json.loads(config.to_json_string()),
    )
    asked = TrainingResources()
    estimate = activation_bytes(recovery, asked, facts, width=dtype.itemsize)
    more = tiny_config(kind)
    more.num_hidden_layers = 2 * config.num_hidden_layers
    if getattr(more, "layer_types", None):
        more.layer_types = list(more.layer_types) * 2
    counted = kept_by_autograd(more, dtype) - kept_by_autograd(config, dtype)
    assert estimate == pytest.approx(counted, rel=0.25)


def test_rules() -> None:
    assert CHUNK == fused_loss.CHUNK
    assert not is_fused(tokens=2048, vocabulary=32_000)
    assert is_fused(tokens=4096, vocabulary=128_256)
    assert [bucket_of(block) for block in (1000, 200_000_000, 900_000_000)] == [LEAST, 200_000_000, MOST]
    one, eight = (communication(parameters=6_400_000_000, blocks=32, workers=n) for n in (1, 8))
    assert one.zero(2) == {
        "overlap_comm": False,
        "reduce_bucket_size": 200_000_000,
        "allgather_bucket_size": 200_000_000,
    }
    assert eight.zero(3)["stage3_prefetch_bucket_size"] == 200_000_000
    assert eight.zero(3)["overlap_comm"]
    assert "200M" in eight.sentence()
