"""An encoder-decoder whose blocks are in memory one at a time: the encoder's, then the decoder's.

The hidden states of a pair are one tensor: those of what the encoder reads, and behind them those of what the
decoder gets. An encoder block runs on the first part, a decoder block on the second, and the rest stays as it
is. When the walk reaches the decoder, the first part is what the last encoder block gave: through the
encoder's norm it enters the cross-attention of every decoder block. So a walk needs to know nothing of
stacks, and what it stores of a pair is one tensor.

Shape legend: E tokens that the encoder reads, D tokens of the decoder, L = E + D, H hidden size, V
vocabulary.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor
from torch.func import functional_call

from pipeline.architecture.parts import Decoder
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.states import BlockCall
from pipeline.checkpoint.stream import BlockStream, assign
from pipeline.errors import UnsupportedCheckpoint
from pipeline.tensor.pairs import parted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ENCODED = "encoder_hidden_states"  # what transformers' decoder blocks call the outputs of the encoder


class _RelativeAttention(Protocol):
    """T5's attention in the first block of a stack."""

    def compute_bias(self, query_length: int, key_length: int) -> Tensor:
        """Returns what positions add to the scores, [1, heads, query_length, key_length]."""
        ...


def open_stream(reader: CheckpointReader, *, dtype: torch.dtype, device: torch.device) -> BlockStream:
    """Returns the stream for a checkpoint's model type."""
    decoder = row_for(str(reader.config["model_type"])).decoder
    if decoder is None:
        return BlockStream(reader, dtype=dtype, device=device)
    return PairedStream(reader, decoder, dtype=dtype, device=device)


class PairedStream(BlockStream):
    """Runs pairs (pipeline/tensor/pairs.py) through both stacks. Pairs of one length are parted at the same
    place."""

    def __init__(
        self, reader: CheckpointReader, decoder: Decoder, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(reader, dtype=dtype, device=device)
        self._decoder = decoder
        self._first = next(i for i, prefix in enumerate(self._prefixes) if prefix.startswith(decoder.blocks))
        self._entering = self._model.get_submodule(decoder.entering)
        self._start = _start_of(self._model.config)
        self._read: dict[int, int] = {}  # by L, the number of tokens that the encoder reads
        self._biases: dict[int, Tensor] = {}  # by the first block of a stack, of the pair that is embedded

    def embed(self, sequences: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the hidden states [1, L, H] that enter the first blocks of both stacks, for pairs [L].
        Captures the block calls."""
        pairs = [self._sides(pair_L) for pair_L in sequences]
        self._load_outer([side for pair in pairs for side in pair])
        return (self._embedded(*pair) for pair in pairs)

    def run(self, block: int, hidden_BLH: Tensor, *, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Returns the hidden states of both sides after a loaded block, [1, L, H]; the block changes its
        own."""
        length = hidden_BLH.shape[1]
        read = self._read[length]
        first_BEH, second_BDH = hidden_BLH[:, :read], hidden_BLH[:, read:]
        kwargs = self._calls[1, length][block].kwargs
        given = dict(weights or {})
        if block < self._first:
            made = functional_call(self._blocks[block], given, (first_BEH,), kwargs)
            return torch.cat((_hidden_of(made), second_BDH), dim=1)
        if block == self._first:  # embeddings, which joined with an encoder's float32 became as wide
            second_BDH = second_BDH.to(self._dtype)
        kwargs = {**kwargs, ENCODED: self._entering(first_BEH)}
        made = functional_call(self._blocks[block], given, (second_BDH,), kwargs)
        return torch.cat((first_BEH, _hidden_of(made)), dim=1)

    def logits(self, tokens_L: Tensor, hidden_1LH: Tensor) -> Tensor:
        """Returns logits [D, V] of the tokens that the decoder writes, through the model's own norm and
        head."""
        read_E, given_D = self._sides(tokens_L)
        inputs = {"input_ids": self._rows(read_E), "decoder_input_ids": self._rows(given_D)}
        return self._logits(inputs, hidden_1LH[:, len(read_E) :])

    def predicted(self, tokens_L: Tensor, hidden_1LH: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits of every token that the decoder writes, and these tokens."""
        logits_DV = self.logits(tokens_L, hidden_1LH)
        return logits_DV, parted(tokens_L)[1].to(logits_DV.device)

    def own(self, block: int, hidden_1LH: Tensor) -> Tensor:
        """Returns the hidden states of the side that a block changes."""
        read = self._read[hidden_1LH.shape[1]]
        return hidden_1LH[:, :read] if block < self._first else hidden_1LH[:, read:]

    def _sides(self, pair_L: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens [E] that the encoder reads, and those [D] that the decoder gets: it sees what it
        has written, after its start token."""
        read_E, written_D = parted(pair_L)
        return read_E, torch.cat((written_D.new_tensor([self._start]), written_D[:-1]))

    def _embedded(self, read_E: Tensor, given_D: Tensor) -> Tensor:
        """Returns the hidden states [1, L, H] that enter the stacks, and stores the arguments of the block
        calls."""
        read, length = len(read_E), len(read_E) + len(given_D)
        assert self._read.setdefault(length, read) == read, "pairs of one length are parted at one place"
        calls: dict[int, BlockCall] = {}
        entering: list[Tensor] = []

        def forward(
            block: int, hidden: Tensor, args: tuple[object, ...], kwargs: dict[str, object]
        ) -> Tensor:
            if block in (0, self._first):
                entering.append(hidden.detach())
            named = dict(zip(_arguments(self._blocks[block]), args, strict=False)) | kwargs
            calls[block] = BlockCall((), {name: value for name, value in named.items() if name != ENCODED})
            return hidden

        inputs = {"input_ids": self._rows(read_E), "decoder_input_ids": self._rows(given_D)}
        known = (1, length) in self._calls
        self._biases = {} if known else self._shared_biases(read, len(given_D))
        self._through_patched_blocks(inputs, forward)
        if [*calls] != [*range(self.num_blocks)]:
            raise UnsupportedCheckpoint(
                f"{self.row.model_type} did not call its {self.num_blocks} blocks in order"
            )
        if not known:
            self._calls[1, length] = [*calls.values()]
        return torch.cat(entering, dim=1)

    def _shared_biases(self, read: int, written: int) -> dict[int, Tensor]:
        """Returns what the first block of each stack adds to the scores of all blocks of the stack."""
        shared = self._decoder.shared_bias
        if shared is None:
            return {}
        biases = {}
        with torch.no_grad():
            for block, length in ((0, read), (self._first, written)):
                attention = cast(_RelativeAttention, self._blocks[block].get_submodule(shared))
                biases[block] = attention.compute_bias(length, length)
        return biases

    def _beside(self, block: int) -> tuple[object, ...] | None:
        """Returns what a block gives beside its hidden states: the scores that its stack shares, and those of
        cross-attention, which has none."""
        if self._decoder.shared_bias is None:
            return None
        return self._biases.get(0 if block < self._first else self._first), None

    def _load_outer(self, sequences: Iterable[Tensor]) -> None:
        """Also loads the relative positions that the stacks share, which are inside their first blocks, and
        gives both stacks the one embedding."""
        super()._load_outer(sequences)
        self._model.set_input_embeddings(self._model.get_input_embeddings())
        if self._decoder.bias is None:
            return
        for block in (0, self._first):
            stored = self._reader.tensor(self.block_tensors(block)[self._decoder.bias])
            assign(self._blocks[block], self._decoder.bias, stored.to(self._device, self._dtype))


def _start_of(config: "PreTrainedConfig") -> int:
    """Returns the token that the decoder gets first. Raises UnsupportedCheckpoint where there is none."""
    start = getattr(config, "decoder_start_token_id", None)
    if not isinstance(start, int):
        raise UnsupportedCheckpoint(
            f"config.json has decoder_start_token_id={start!r}, and the decoder begins with that token; set "
            f"it, which is the id of the pad token in T5 and its kin",
            "spec.model.source",
        )
    return start


def _arguments(block: torch.nn.Module) -> list[str]:
    """Returns the names of a block's arguments behind its hidden states."""
    return [*inspect.signature(type(block).forward).parameters][2:]


def _hidden_of(output: object) -> Tensor:
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden
