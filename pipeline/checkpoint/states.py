"""The state: what one decoder block hands to the next, as one tensor for each sequence.

For most types the state is the hidden states. Blocks of some types read more than that: inputs of their own
for every token, keys and values that an earlier block computed, several hidden states a token. All of it lies
beside the hidden states:

    hidden states | inputs of block 0, 1, ... | keys and values of one kind of attention, of the next, ...

So whoever holds activations (walks, snapshots, workers) holds one tensor, whatever the type. Keys and values
are zero until a block has computed them.

Shape legend: B sequences, L tokens, H channels of all hidden states of a token, S channels of a state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from pipeline.architecture.parts import Beside

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class BlockCall:
    """The arguments with which the model calls one block, besides the hidden states."""

    args: tuple[object, ...]
    kwargs: dict[str, object]


class _Attention(Protocol):
    """What the attention of transformers' classes says of the keys and values that it hands on."""

    store_full_length_kv: bool
    layer_type: str
    head_dim: int
    k_proj: nn.Linear


@dataclass(frozen=True)
class _Handed:
    """The place in a state of the keys and values of one kind of attention, each with heads of `head_dim`."""

    kind: str
    place: slice
    head_dim: int


class States:
    """Takes the states of one model apart and puts them together. `beside`: what its row says; with None a
    state is the hidden states, and nothing is copied."""

    def __init__(
        self, beside: Beside | None, config: "PreTrainedConfig", blocks: Sequence[nn.Module]
    ) -> None:
        self._beside = beside
        self._streams, self._hidden, self._width = 1, int(config.hidden_size), 0
        self._handed: list[_Handed] = []
        if beside is None:
            return
        if beside.streams is not None:
            self._streams = int(getattr(config, beside.streams))
            self._hidden *= self._streams
        self._width = int(getattr(config, beside.width))
        self._shared_from = at = self._hidden + len(blocks) * self._width
        for block in blocks:
            attention = cast("_Attention", block.get_submodule("self_attn"))
            if attention.store_full_length_kv:
                end = at + 2 * attention.k_proj.out_features
                self._handed.append(_Handed(attention.layer_type, slice(at, end), attention.head_dim))
                at = end
        self._channels = at

    def entering(self, hidden: Tensor, calls: Sequence[BlockCall]) -> Tensor:
        """Returns the state [B, L, S] that enters block 0. `hidden`: as the model hands it to the block;
        `calls`: the model's calls of all blocks for these sequences."""
        if self._beside is None:
            return hidden
        parts = [self._flat(hidden)]
        if self._width:
            parts += [cast(Tensor, call.args[self._beside.inputs]) for call in calls]
        batch, length = parts[0].shape[:2]
        parts.append(hidden.new_zeros(batch, length, self._channels - self._shared_from))
        return torch.cat(parts, dim=-1)

    def hidden(self, state_BLS: Tensor) -> Tensor:
        """Returns the hidden states alone, [B, L, H]."""
        return state_BLS if self._beside is None else state_BLS[..., : self._hidden]

    def unpacked(self, state_BLS: Tensor) -> Tensor:
        """Returns the hidden states as the model hands them from block to block."""
        hidden_BLH = self.hidden(state_BLS)
        if self._streams > 1:
            return hidden_BLH.unflatten(-1, (self._streams, -1)).movedim(2, 0).contiguous()
        return hidden_BLH.contiguous()

    def opened(self, block: int, state_BLS: Tensor, call: BlockCall) -> BlockCall:
        """Returns the model's call of a block with what the state holds for it."""
        if self._beside is None:
            return call
        args = list(call.args)
        if self._width:
            first = self._hidden + block * self._width
            args[self._beside.inputs] = state_BLS[..., first : first + self._width]
        shared = {one.kind: _keys_and_values(state_BLS[..., one.place], one) for one in self._handed}
        return BlockCall(tuple(args), {**call.kwargs, self._beside.shared: shared})

    def closed(self, state_BLS: Tensor, output: Tensor, call: BlockCall) -> Tensor:
        """Returns the state [B, L, S] after a block. `state_BLS`: the one before it; `call`: as `opened` has
        returned it, whose shared keys and values the block may have replaced."""
        if self._beside is None:
            return output
        shared = cast("dict[str, tuple[Tensor, Tensor]]", call.kwargs[self._beside.shared])
        parts = [self._flat(output), state_BLS[..., self._hidden : self._shared_from]]
        for one in self._handed:
            parts += [states.transpose(1, 2).flatten(2) for states in shared[one.kind]]
        return torch.cat(parts, dim=-1)

    def _flat(self, hidden: Tensor) -> Tensor:
        """Returns hidden states as the model hands them over as [B, L, H]."""
        return hidden.movedim(0, 2).flatten(2) if self._streams > 1 else hidden


def _keys_and_values(part: Tensor, handed: _Handed) -> tuple[Tensor, Tensor]:
    """Returns keys and values as attention computes them: [B, heads, L, head_dim], tokens apart in memory by
    all heads."""
    keys, values = part.chunk(2, dim=-1)
    return _by_head(keys, handed.head_dim), _by_head(values, handed.head_dim)


def _by_head(states_BLC: Tensor, head_dim: int) -> Tensor:
    return states_BLC.unflatten(-1, (-1, head_dim)).contiguous().transpose(1, 2)
