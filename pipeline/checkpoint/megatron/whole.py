"""A model's weights as Megatron's whole parameters, before they are split over ranks, and the settings beside
them."""

from argparse import Namespace
from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.checkpoint.megatron.args import args_of, sizes_for_megatron
from pipeline.checkpoint.megatron.mapping import EMBEDDING, join, shape_of, whole_shape
from pipeline.checkpoint.megatron.parallel import check_tensor_parallel, padded_vocabulary
from pipeline.checkpoint.megatron.parameters import Parameter, parameters_of
from pipeline.checkpoint.megatron.weights import Facts, Weights
from pipeline.errors import UnsupportedCheckpoint

Implementation = Literal["transformer_engine", "local"]
VERSION = 3.0  # the version of checkpoints whose qkv is interleaved by group


class WholeParameters:
    """Megatron's parameters of `weights`, computed on request; the vocabulary is padded with zero rows for
    `tensor_parallel` ranks. Raises InvalidSpec when the ranks cannot share the model, and
    UnsupportedCheckpoint where the sizes of its tensors differ from config.json."""

    def __init__(self, weights: Weights, *, tensor_parallel: int) -> None:
        self._weights = weights
        self._sizes = sizes_for_megatron(weights.config)
        self._ranks = tensor_parallel
        check_tensor_parallel(self._sizes, tensor_parallel)
        self.parameters = parameters_of(weights.config)
        for parameter in self.parameters:
            self._check(parameter)

    @cached_property
    def facts(self) -> Mapping[Parameter, Facts]:
        """The type and shape of each parameter."""
        padded = padded_vocabulary(self._sizes.vocab_size, self._ranks)
        return {
            one: Facts(
                self._weights.facts[one.parts[0]].dtype,
                whole_shape(one.row, self._sizes, padded_vocabulary=padded),
            )
            for one in self.parameters
        }

    @property
    def blocks(self) -> int:
        """The number of decoder blocks of the model."""
        return self._sizes.num_hidden_layers

    def tensor(self, parameter: Parameter) -> Tensor:
        """Returns one parameter."""
        parts = [self._weights.tensor(part) for part in parameter.parts]
        whole = join(parameter.row, parts, self._sizes)
        missing = self.facts[parameter].shape[0] - whole.shape[0]
        return whole if not missing else nn.functional.pad(whole, (0, 0, 0, missing))

    def beside(self, *, layout: str, implementation: Implementation) -> dict[str, object]:
        """Returns the settings that Megatron-LM expects beside the tensors."""
        args = args_of(self._weights.config, tensor_parallel=self._ranks)
        dtype = self.facts[Parameter(EMBEDDING)].dtype
        window = args["window_size"]
        args_there = Namespace(
            **{
                **args,
                "window_size": tuple(window) if isinstance(window, list) else None,
                "params_dtype": dtype,
                "bf16": dtype == torch.bfloat16,
                "fp16": dtype == torch.float16,
                "transformer_impl": implementation,
                "ckpt_format": layout,
            }
        )
        return {"args": args_there, "checkpoint_version": VERSION, "iteration": 0}

    def _check(self, parameter: Parameter) -> None:
        for number, part in enumerate(parameter.parts):
            facts, wanted = self._weights.facts[part], shape_of(parameter.row, number, self._sizes)
            if facts.shape != wanted:
                raise UnsupportedCheckpoint(f"{part} has shape {facts.shape}, config.json asks for {wanted}")
            first = self._weights.facts[parameter.parts[0]].dtype
            if facts.dtype != first:
                raise UnsupportedCheckpoint(
                    f"{part} has type {facts.dtype}, {parameter.parts[0]} {first}; Megatron keeps them in "
                    "one tensor"
                )
