"""Interfaces of readers: weights by Hugging Face's names, or by Megatron's, one tensor at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor


@dataclass(frozen=True)
class Facts:
    """The properties of a tensor that are known without reading it."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Weights(Protocol):
    """A model by Hugging Face's names, which can be written to any layout."""

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """The content of config.json."""

    @property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of every parameter; a tied head is not among them."""

    def tensor(self, name: str) -> Tensor:
        """Returns one parameter in its stored type."""


class MegatronTensors(Protocol):
    """A Megatron checkpoint with the ranks' shares merged, by the names of mapping.py with the number of the
    block."""

    @property
    def settings(self) -> Mapping[str, object]:
        """The settings beside the tensors."""

    @property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of every parameter."""

    def tensor(self, name: str) -> Tensor:
        """Returns one whole parameter, with the padding of its vocabulary."""
