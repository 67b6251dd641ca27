"""What can be read: weights by Hugging Face's names, or by Megatron's, one tensor at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor


@dataclass(frozen=True)
class Facts:
    """What is known of a tensor without reading it."""

    dtype: torch.dtype
    shape: tuple[int, ...]


class Weights(Protocol):
    """A model by Hugging Face's names, which can be written to any layout."""

    @property
    def config(self) -> Mapping[str, JsonValue]:
        """config.json."""

    @property
    def facts(self) -> Mapping[str, Facts]:
        """Every parameter; a tied head is not among them."""

    def tensor(self, name: str) -> Tensor:
        """One of them, in its stored type."""


class MegatronTensors(Protocol):
    """A Megatron checkpoint with the ranks' shares put together, by the names of mapping.py, in blocks with
    the block's number."""

    @property
    def settings(self) -> Mapping[str, object]:
        """What lies beside the tensors."""

    @property
    def facts(self) -> Mapping[str, Facts]:
        """Every parameter."""

    def tensor(self, name: str) -> Tensor:
        """One whole parameter, with the padding of its vocabulary."""
