"""Walks some sequences through a model: holds their activations, and one block at a time.

Shape legend: L tokens, V vocabulary.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import Activations, MemoryBudget, StoredActivations
from pipeline.blocks.beside import Ahead, BlockReader
from pipeline.blocks.block import BlockWork
from pipeline.checkpoint.paired_stream import open_stream
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.storage.content import ContentStore
from pipeline.tensor.devices import device_name, peak_gpu_bytes, read_together
from pipeline.tensor.sequence_loss import loss_parts


class Walk:
    """`sequences` are token sequences [L] of any lengths: those from `first` on of `samples` in all,
    distributed by `share_edges`. `budget` limits the activations in memory; without one, all stay there."""

    def __init__(
        self,
        content: ContentStore,
        checkpoint: CheckpointRef,
        sequences: Sequence[Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        first: int = 0,
        samples: int | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._content = content
        self._dtype = dtype
        self._device = device
        self._first = first
        self._samples = len(sequences) if samples is None else samples
        self._budget = budget
        self._reader = CheckpointReader(content, checkpoint)
        self._stream = open_stream(self._reader, dtype=dtype, device=device)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        pinned = device.type == "cuda" and torch.cuda.is_available()  # a simulated GPU has no pinned memory
        self._blocks = BlockReader(content, self._reader, self._stream, self._thread, pinned=pinned)
        self._sequences = list(sequences)
        self._activations = {"hidden": Activations(iter(()), budget=None)}
        self._work: BlockWork | None = None
        self._module: nn.Module | None = None
        self.runs = {"whole": 0, "cut": 0}  # how often a sequence passed through a block, or a part of one
        self._prepare()

    def _prepare(self) -> None:
        """Sets up what a kind of walk holds beside this; a subclass calls its parent's first."""

    def _forget(self) -> None:
        """Frees what a kind of walk holds beside this of the block that was at work."""

    @property
    def work(self) -> BlockWork:
        """The loaded block."""
        assert self._work is not None, "load(block) comes first"
        return self._work

    @property
    def device_name(self) -> str:
        """The device that the blocks run on."""
        return device_name(self._device)

    def gpu_peak(self) -> int:
        """Returns the most bytes that tensors held on the GPU, 0 on a CPU."""
        return peak_gpu_bytes(self._device)

    @property
    def num_blocks(self) -> int:
        """The number of decoder blocks of the model."""
        return self._stream.num_blocks

    def start(self) -> int:
        """Embeds the sequences (if there are any) and returns the number of blocks."""
        if self._sequences:
            embedded = self._stream.embed(self._sequences)
            self._activations["hidden"] = Activations(embedded, budget=self._budget)
        return self.num_blocks

    def load(self, block: int, stored: StoredBlock | None = None, *, then: Ahead | None = None) -> None:
        """Loads one block into memory, as the checkpoint has it or as it was stored after pruning. `then`:
        the block that is loaded next, which is read while this one is at work."""
        self._unload()
        self._forget()
        self._work = None  # frees it before the next is loaded
        tensors = self._blocks.read(block, stored)
        self._work = BlockWork(self._content, self._stream, block, tensors, device=self._device)
        if then is not None:
            self._blocks.expect(then)

    def advance(self) -> None:
        """Runs the block, in its present state, on each sequence; its outputs become the next block's
        inputs."""
        self._loaded()
        for i, hidden in enumerate(self._hidden):
            self._hidden[i] = self._stream.run(self.work.block, hidden)
        self.runs["whole"] += len(self._hidden)

    def restore_activations(self, stored: StoredActivations) -> None:
        """Replaces this worker's activations by its share of those that an earlier attempt stored."""
        for name, activations in self._activations.items():
            activations.restore(self._content.store, stored.parts[name], first=self._first)

    def spilled(self) -> int:
        """Returns the bytes of activations on the local disk."""
        return sum(activations.spilled_bytes for activations in self._activations.values())

    def losses(self, scored: Sequence[int]) -> list[tuple[float, int]]:
        """Returns for each sequence the cross-entropy in nats, summed over its last `scored` predictions, and
        their number."""
        self._stream.load_head()
        counts: list[int] = []
        parts: list[list[Tensor]] = []
        for tokens_L, hidden, count in zip(self._sequences, self._hidden, scored, strict=True):
            predicted_LV, predicted_L = self._stream.predicted(tokens_L, hidden)
            logits_LV, targets_L = predicted_LV[-count:], predicted_L[-count:]
            counts.append(len(targets_L))
            parts.append(loss_parts(logits_LV, targets_L))
        found = iter(read_together([part for one in parts for part in one]))
        return [(sum(next(found) for _ in one), count) for one, count in zip(parts, counts, strict=True)]

    @property
    def _hidden(self) -> Activations:
        return self._activations["hidden"]

    def _loaded(self) -> nn.Module:
        if self._module is None:
            self._module = self._stream.load(self.work.block, self.work.tensors)
        return self._module

    def _unload(self) -> None:
        if self._module is not None:
            self._stream.release(self.work.block)
            self._module = None
