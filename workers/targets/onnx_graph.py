"""Writes a checkpoint as an ONNX graph with a key-value cache, in float32.

The graph takes `input_ids` [1, T] and for each block `past.<i>.key` and `past.<i>.value` [1, heads, P,
head_dim]; it gives `logits` [1, T, V] and `present.<i>.key` and `.value` with P + T positions. T and P may be
any numbers, and P is 0 for a prompt.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from workers.targets.cached import IDS, LOGITS, past, present

EAGER = ("bloom", "gemma2")  # their attention has no other form in transformers
Cache = list[tuple[Tensor, Tensor]]


def write_onnx(directory: Path, path: Path) -> None:
    """Write the graph, with its weights in `<path>.data` beside it. Memory holds the model in float32, and a
    copy."""
    kind = AutoConfig.from_pretrained(directory).model_type
    attention = "eager" if kind in EAGER else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation=attention
    )
    step = _Step(model.eval())
    with torch.no_grad():
        filled = model(torch.zeros(1, 3, dtype=torch.int64), use_cache=True).past_key_values
        cache = [(layer.keys, layer.values) for layer in filled.layers]
        dynamic = torch.export.Dim.DYNAMIC
        parts = [(i, part) for i in range(len(cache)) for part in ("key", "value")]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own use of torch
            program = torch.onnx.export(
                step,
                (torch.zeros(1, 2, dtype=torch.int64), cache),
                dynamo=True,
                verbose=False,
                input_names=[IDS, *(past(i, part) for i, part in parts)],
                output_names=[LOGITS, *(present(i, part) for i, part in parts)],
                dynamic_shapes={"ids": {1: dynamic}, "past": [({2: dynamic}, {2: dynamic}) for _ in cache]},
            )
    assert program is not None, "the exporter gives a program where it writes no file itself"
    program.save(path, external_data=True)


class _Step(nn.Module):
    """A model whose cache goes in and comes out as plain tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model

    def forward(self, ids: Tensor, past: Cache) -> tuple[Tensor, Cache]:
        """[1, T] and a cache of P positions → logits [1, T, V], and the cache with T more."""
        cache = DynamicCache()
        for block, (keys, values) in enumerate(past):
            cache.update(keys, values, block)
        before = past[0][0].shape[2]
        positions = torch.arange(before, before + ids.shape[1]).unsqueeze(0)
        made = self._model(input_ids=ids, past_key_values=cache, position_ids=positions, use_cache=True)
        return made.logits, [(layer.keys, layer.values) for layer in cache.layers]
