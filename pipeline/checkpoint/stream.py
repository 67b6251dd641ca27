"""A causal language model whose decoder blocks are in memory one at a time.

The skeleton is transformers' own model, built without weights (non-persistent buffers are real). A block's
arguments (masks, rotary embeddings, positions) are not rebuilt but captured from the model's own call, per
block and per shape of a batch (ALiBi has a row for each sequence and head), so that streaming gives the same
bits as the whole model.

What goes from block to block is a state (states.py): for most types, the hidden states.

Shape legend: B sequences, L tokens of one sequence, S channels of a state, H channels of hidden states, V
vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.architecture.axes import BY_HEAD
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.experts import fused, slot
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, kept_in_float32, skeleton
from pipeline.checkpoint.states import BlockCall, States
from pipeline.errors import UnsupportedCheckpoint
from pipeline.structure.sizes import sizes_of

if TYPE_CHECKING:
    from transformers.modeling_outputs import CausalLMOutput


class _Captured(Exception):
    """Ends the capturing pass before the final norm and head."""


class BlockStream:
    """Runs sequences through embedding, blocks and head, and loads each part when it is needed."""

    def __init__(self, reader: CheckpointReader, *, dtype: torch.dtype, device: torch.device) -> None:
        self._reader = reader
        self._dtype = dtype
        self._device = device
        self._model = skeleton(reader, dtype)
        self.row: Architecture = row_for(self._model.config.model_type)
        self._blocks: list[nn.Module] = []
        self._prefixes: list[str] = []  # of the names of each block's parameters
        for stack, _ in self.row.stacks:
            blocks = self._model.get_submodule(stack)
            assert isinstance(blocks, nn.ModuleList)
            self._blocks += blocks
            self._prefixes += [f"{stack}.{number}." for number in range(len(blocks))]
        self._states = States(self.row.beside, self._model.config, self._blocks)
        self._exact = kept_in_float32(self._model, dtype)
        self._disk_names = disk_names(self._model, reader)
        self._token_rows: dict[int, int] = {}
        self._calls: dict[tuple[int, int], list[BlockCall]] = {}  # by B and L
        for module in self._model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)

    @property
    def num_blocks(self) -> int:
        """The number of decoder blocks of the model."""
        return len(self._blocks)

    def block_tensors(self, block: int) -> dict[str, str]:
        """Maps the name inside the block to the name in the checkpoint, for every stored tensor of a block.
        The matrices of experts appear one by one, by their stored names."""
        prefix = self._prefixes[block]
        return {
            name.removeprefix(prefix): disk
            for name, disk in self._disk_names.items()
            if name.startswith(prefix)
        }

    def buffers(self, block: int) -> frozenset[str]:
        """Returns the names inside the block of its buffers, which are not parameters."""
        return frozenset(name for name, _ in self._blocks[block].named_buffers())

    def groups(self, block: int) -> tuple[tuple[str, ...], ...]:
        """Returns the prunable linears of a block, grouped by the input that they share."""
        return self.row.groups_in(self.block_tensors(block))

    def channel_of(self, linear: str, in_features: int) -> int:
        """Returns how many consecutive input features of a linear are kept or cut together: those of a head,
        or one."""
        if self.row.entering(linear) not in BY_HEAD:
            return 1
        return in_features // sizes_of(self.row, self._reader.config).num_attention_heads

    def outer_tensors(self) -> tuple[str, ...]:
        """Returns the checkpoint names of all tensors outside the blocks, tied ones once."""
        names = self._disk_names.items()
        return tuple(sorted({disk for name, disk in names if self.row.inside(name) is None}))

    def embed(self, sequences: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the states [1, L, S] that enter block 0, for token sequences [L]. Captures the block calls.

        Only the embedding rows that the sequences use stay in memory.
        """
        self._load_outer(sequences)
        return (self._capture(self._rows(tokens_L)) for tokens_L in sequences)

    def load(self, block: int, tensors: dict[str, Tensor]) -> nn.Module:
        """Fills a block with `tensors` (names inside the block, any type) and returns it."""
        module = self._blocks[block]
        state = {name: tensor.to(self._device, self._type_of(name)) for name, tensor in tensors.items()}
        module.load_state_dict(fused(self.row.experts, state), strict=True, assign=True)
        return module

    def replace(self, block: int, tensors: Mapping[str, Tensor]) -> None:
        """Writes some tensors (names inside the block) into a loaded block, in place."""
        parameters = self._blocks[block].state_dict()
        for name, tensor in tensors.items():
            slot(self.row.experts, parameters, name).copy_(tensor)

    def release(self, block: int) -> None:
        """Frees a block's weights."""
        module = self._blocks[block]
        state = {
            name: torch.empty_like(tensor, device="meta") for name, tensor in module.state_dict().items()
        }
        module.load_state_dict(state, strict=True, assign=True)

    def hidden(self, state_BLS: Tensor) -> Tensor:
        """Returns the hidden states of a state, [B, L, H], which distances and similarities are about."""
        return self._states.hidden(state_BLS)

    def run(self, block: int, state_BLS: Tensor, *, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the state after a loaded block, [B, L, S]. `weights` replace its own, by name inside the
        block; gradients reach them."""
        batch, length = state_BLS.shape[:2]
        if (batch, length) not in self._calls:  # the arguments depend on the shape only, so any token will do
            self._capture(torch.zeros(batch, length, dtype=torch.long, device=self._device))
        call = self._states.opened(block, state_BLS, self._calls[batch, length][block])
        args = (self._states.unpacked(state_BLS), *call.args)
        used = fused(self.row.experts, weights or {})
        output = functional_call(self._blocks[block], used, args, call.kwargs)
        output = cast(Tensor, output[0] if isinstance(output, tuple) else output)
        return self._states.closed(state_BLS, output, call)

    def load_head(self) -> None:
        """Fills the output head, tied or not."""
        head = self._model.get_output_embeddings()
        name = _name_of(self._model, head)
        state = {
            key: self._reader.tensor(self._disk_names[f"{name}.{key}"]).to(self._device, self._dtype)
            for key in head.state_dict()
        }
        head.load_state_dict(state, strict=True, assign=True)

    def logits(self, tokens_L: Tensor, state_1LS: Tensor) -> Tensor:
        """Returns logits [L, V] from the state after the last block, through the model's own norm and
        head."""
        return self._logits({"input_ids": self._rows(tokens_L)}, self._states.unpacked(state_1LS))

    def predicted(self, tokens_L: Tensor, state_1LS: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of every token that the model predicts, and these tokens, from the state after
        the last block: all tokens of a sequence but the first."""
        logits_LV = self.logits(tokens_L, state_1LS)
        return logits_LV[:-1], tokens_L[1:].to(logits_LV.device)

    def own(self, block: int, state_1LS: Tensor) -> Tensor:
        """Returns the hidden states of a state that a block changes: all of them, where there is one
        stack."""
        return self.hidden(state_1LS)

    def _logits(self, inputs: Mapping[str, Tensor], leaving: Tensor) -> Tensor:
        """Returns logits [L, V]. `inputs`: of the model; `leaving`: the hidden states that leave the last
        block, as the model hands them on."""
        last = self.num_blocks - 1

        def forward(
            block: int, hidden: Tensor, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> Tensor:
            return leaving if block == last else hidden

        output = self._through_patched_blocks(inputs, forward)
        return cast("CausalLMOutput", output).logits[0]

    def _type_of(self, name: str) -> torch.dtype:
        """Returns the type in which a tensor computes: float32 for the few that transformers keeps so."""
        return torch.float32 if any(part in self._exact for part in name.split(".")) else self._dtype

    def _load_outer(self, sequences: Iterable[Tensor]) -> None:
        tables = self._tables()
        stored = {self._disk_names[name] for name in tables}
        head_name = _name_of(self._model, self._model.get_output_embeddings()) + "."
        for name, disk in self._disk_names.items():
            if self.row.inside(name) is not None or name.startswith(head_name) or disk in stored:
                continue
            assign(self._model, name, self._reader.tensor(disk).to(self._device, self._type_of(name)))
        used = torch.cat([tokens_L.reshape(-1) for tokens_L in sequences]).unique()
        self._token_rows = {int(token): row for row, token in enumerate(used)}
        for name, embedding in tables.items():
            table = self._disk_names[name]
            rows_stored = self._reader.index.tensors[table].shape[0]
            if int(used.max()) >= rows_stored:
                raise UnsupportedCheckpoint(
                    f"the tokenizer makes id {int(used.max())}, the embedding has {rows_stored} rows; "
                    "use the tokenizer that belongs to the model",
                    "spec.model.source",
                )
            rows = self._reader.rows(table, used.tolist()).to(self._device, self._dtype)
            embedding.weight = nn.Parameter(rows, requires_grad=False)  # fewer than the config states
            embedding.padding_idx = None  # it affects only gradients, and may lie beyond these rows

    def _tables(self) -> dict[str, nn.Embedding]:
        """Returns the embeddings of tokens, by the names of their weights."""
        main = self._model.get_input_embeddings()
        found = {f"{_name_of(self._model, main)}.weight": main}
        modules = dict(self._model.named_modules())
        if self.row.beside is not None and self.row.beside.table in modules:
            found[f"{self.row.beside.table}.weight"] = modules[self.row.beside.table]
        return {name: cast(nn.Embedding, module) for name, module in found.items()}

    def _rows(self, tokens_L: Tensor) -> Tensor:
        """Returns the rows of the tokens in the compact embedding, [1, L]."""
        return torch.tensor([[self._token_rows[int(token)] for token in tokens_L]], device=self._device)

    def _capture(self, rows_BL: Tensor) -> Tensor:
        """Returns the states [B, L, S] that enter block 0, and stores the arguments of the block calls."""
        calls: list[BlockCall] = []
        entering: list[Tensor] = []
        last = self.num_blocks - 1

        def forward(
            block: int, hidden: Tensor, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> Tensor:
            calls.append(BlockCall(args, kwargs))
            if block == 0:
                entering.append(hidden)
            if block == last:
                raise _Captured
            return hidden

        try:
            self._through_patched_blocks({"input_ids": rows_BL}, forward)
        except _Captured:
            self._calls.setdefault((rows_BL.shape[0], rows_BL.shape[1]), calls)
            return self._states.entering(entering[0], calls).detach()
        raise UnsupportedCheckpoint(
            f"{self.row.model_type} did not call its {self.num_blocks} blocks in order"
        )

    def _beside(self, block: int) -> tuple[object, ...] | None:
        """Returns what a block gives in a tuple beside its hidden states; None where it gives no tuple."""
        return () if self.row.in_tuple else None

    def _through_patched_blocks(
        self,
        inputs: Mapping[str, Tensor],
        forward: Callable[[int, Tensor, tuple[object, ...], dict[str, object]], Tensor],
    ) -> object:
        for i, block in enumerate(self._blocks):
            block.forward = _patched(i, forward, beside=self._beside(i))
        try:
            with torch.no_grad():
                return self._model(**inputs, use_cache=False)
        finally:
            for block in self._blocks:
                del block.forward


def _patched(
    block: int,
    forward: Callable[[int, Tensor, tuple[object, ...], dict[str, object]], Tensor],
    *,
    beside: tuple[object, ...] | None,
) -> Callable[..., object]:
    def call(hidden_states: Tensor, *args: object, **kwargs: object) -> object:
        output = forward(block, hidden_states, args, kwargs)
        return output if beside is None else (output, *beside)

    return call


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is wanted)


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts a tensor in the place of a parameter or buffer without weights, by its name in the model."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    module.load_state_dict({leaf: tensor}, strict=False, assign=True)
