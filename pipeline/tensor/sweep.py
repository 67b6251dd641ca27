"""One worker's share of a sweep over the blocks: its samples' activations, and one block at a time.

Measuring, pruning and evaluating all walk the model in the same way:

    worker.start()                          embed the sequences
    for block in range(worker.num_blocks):
        worker.load(block)
        worker.measure() / .advance()       run the block on every sequence
        worker.gram(group)                  what measuring gathered for Hessians, if asked
        worker.choose(...)                  new weights for some of the block's linears
        worker.apply(...)                   the same for the linears that other workers chose
    worker.losses()                         cross-entropy per sequence, for evaluation

Workers never talk to each other: whoever drives them merges what they return, in sequence order.

Shape legend: L tokens, O out_features, I in_features, V vocabulary, S sequences, G groups of linears that see
the same input.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.artifacts import CheckpointRef, FileRef, LinearSparsity
from pipeline.canonical import Frozen
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import put_block_keep, turned
from pipeline.checkpoint.reader import CheckpointReader, read_tensor
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import copy_tensors, put_tensors
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.methods import Method
from pipeline.methods.base import Needs
from pipeline.patterns import Pattern
from pipeline.storage.content import ContentStore
from pipeline.tensor.inputs import Record, recorded_inputs
from pipeline.tensor.outliers import outlier_ratio
from pipeline.tensor.packing import pack_keep
from pipeline.tensor.routing import indifferent, neglected, tokens_per_expert
from pipeline.tensor.statistics import Gram, GramTree, InputShare, LinearStatistics, hessian, leaf_size

LOSS_ROWS = 256  # logits are turned into losses this many tokens at a time


class StoredBlock(Frozen):
    """A finished block: its weights, its packed keep tensors, and the zeros of each linear. `expert_tokens`:
    calibration tokens that reached each of its experts, if it has any and the method needs statistics."""

    block: int
    weights: StoredTensors
    keep: FileRef
    linears: tuple[LinearSparsity, ...]
    expert_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChosenLinear:
    """What a method decided for one linear: packed keep, and the new values as they are stored."""

    packed_keep: Tensor
    pruned: int
    weight_OI: Tensor
    note: str | None


class SweepWorker:
    """See the module's text. `sequences` are token sequences [L], of any lengths: those from `first` on of
    `samples` in all, shared out as `share_edges` says."""

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
    ) -> None:
        self._first = first
        self._leaf = leaf_size(len(sequences) if samples is None else samples)
        self._grams: list[GramTree] = []
        self._content = content
        self._device = device
        self._reader = CheckpointReader(content, checkpoint)
        self._stream = BlockStream(self._reader, dtype=dtype, device=device)
        self._sequences = list(sequences)
        self._hidden: list[Tensor] = []
        self._block = -1
        self._module: nn.Module | None = None
        self._stored: dict[str, Tensor] = {}
        self._chosen: dict[str, ChosenLinear] = {}

    @property
    def num_blocks(self) -> int:
        """Decoder blocks of the model."""
        return self._stream.num_blocks

    def linear_groups(self) -> tuple[tuple[str, ...], ...]:
        """Linears of the loaded block that share an input, and so a statistic."""
        return self._stream.groups(self._block)

    def tensor_name(self, linear: str) -> str:
        """Checkpoint name of a linear's weight in the loaded block."""
        return self._stream.block_tensors(self._block)[f"{linear}.weight"]

    def start(self) -> int:
        """Embed the sequences (if there are any); number of blocks."""
        if self._sequences:
            self._hidden = self._stream.embed(self._sequences)
        return self.num_blocks

    def load(self, block: int, stored: StoredBlock | None = None) -> None:
        """Bring one block into memory, as the checkpoint has it or as it was stored after pruning."""
        self._unload()
        names = self._stream.block_tensors(block)
        if stored is None:
            self._stored = {name: self._reader.tensor(disk) for name, disk in names.items()}
        else:
            blob, entries = stored.weights.file.blob, stored.weights.tensors
            self._stored = {
                name: read_tensor(self._content, blob, entries[disk], name=disk)
                for name, disk in names.items()
            }
        self._block = block
        self._chosen = {}
        self._module = self._stream.load(block, self._stored)

    def measure(self, *, advance: bool, needs: Needs) -> list[InputShare]:
        """Run the block on each sequence; what they add to the statistics, per group of linears.

        With `advance` the outputs become the next block's inputs (`propagation: dense`). Grams stay here.
        """
        module, groups = self._loaded(), self.linear_groups()
        features = [self._weight(group[0]).shape[1] for group in groups]
        shares = [InputShare(len(self._hidden), count, needs) for count in features]
        self._grams = []
        if "hessian" in needs:
            self._grams = [
                GramTree(count, leaf=self._leaf, first=self._first, device=self._device) for count in features
            ]
        for i, hidden in enumerate(self._hidden):
            record = _into(shares, self._grams, i)
            with recorded_inputs(module, groups, record, experts=self._stream.row.experts):
                output = self._stream.run(self._block, hidden)
            if advance:
                hidden.copy_(output)
        return shares

    def gram(self, group: int) -> Gram:
        """This worker's part of Σ xᵀx over a group's inputs."""
        return self._grams[group].parts()

    def advance(self) -> None:
        """Run the block, as it is now, on each sequence; its outputs become the next block's inputs."""
        self._loaded()
        for hidden in self._hidden:
            hidden.copy_(self._stream.run(self._block, hidden))

    def outlier_ratio(self, statistics: Sequence[LinearStatistics], multiplier: float) -> float:
        """Percent of the block's saliencies |W|·norm above `multiplier` times their mean (OWL); experts that
        saw too few tokens are left out."""
        saliencies = [
            self._weight(name).to(self._device).float().abs() * group_statistics.input_norm_I
            for group, group_statistics in zip(self.linear_groups(), self._moved(statistics), strict=True)
            if not neglected(self._stream.row.experts, group, group_statistics)
            for name in group
        ]
        return outlier_ratio(saliencies, multiplier)

    def choose(
        self,
        linears: Sequence[str],
        statistics: Sequence[LinearStatistics] | None,
        method: Method,
        pattern: Pattern,
        *grams: Gram,
    ) -> None:
        """Decide some linears of the block by the method, and keep the decisions here.

        `grams`: every worker's, for methods that need Hessians; then the linears are of one group. The block
        itself is not needed for it and leaves memory until `apply`.
        """
        self._unload()
        by_linear = self._statistics_by_linear(statistics, linears, grams)
        for name in linears:
            where = f"block {self._block} {name}"
            weight_OI = self._weight(name).to(self._device)
            try:
                keep_OI, new_OI, note = method.choose(weight_OI, by_linear.get(name), pattern)
            except (NumericalError, InvalidSpec) as error:
                raise type(error)(f"{where}: {error.message}", error.param) from error
            if not torch.isfinite(new_OI).all():
                raise NumericalError(f"{where}: method {method.kind} made non-finite weights")
            self._chosen[name] = ChosenLinear(
                packed_keep=pack_keep(keep_OI.cpu()),
                pruned=int((~keep_OI).sum()),
                weight_OI=new_OI.to(weight_OI.dtype).cpu().contiguous(),
                note=note,
            )

    def chosen(self) -> dict[str, ChosenLinear]:
        """The decisions so far, to be applied by the other workers."""
        return self._chosen

    def apply(self, *others: dict[str, ChosenLinear]) -> None:
        """Put the decisions, our own and those of the other workers, into the block in memory."""
        self._chosen = {name: linear for part in (self._chosen, *others) for name, linear in part.items()}
        for name, linear in self._chosen.items():
            self._stored[f"{name}.weight"] = turned(linear.weight_OI, self._stream.row).contiguous()
        self._module = self._stream.load(self._block, self._stored)

    def store(self, statistics: Sequence[LinearStatistics] | None = None) -> StoredBlock:
        """Write the block with its new weights and its keep tensors. `statistics`: what it was pruned by."""
        names = self._stream.block_tensors(self._block)
        tensors = {disk: self._stored[name] for name, disk in names.items()}
        weights = StoredTensors.of(
            put_tensors(self._content, f"block-{self._block:05d}.safetensors", tensors)
        )
        packed = {names[f"{name}.weight"]: linear.packed_keep for name, linear in self._chosen.items()}
        keep = put_block_keep(self._content, self._block, packed)
        linears = tuple(
            LinearSparsity(
                block=self._block,
                linear=name,
                pruned=self._chosen[name].pruned,
                zeros=int((self._weight(name) == 0).sum()),
                weights=self._weight(name).numel(),
                note=self._chosen[name].note,
            )
            for group in self.linear_groups()
            for name in group
        )
        routed = tokens_per_expert(self._stream.row.experts, self.linear_groups(), statistics)
        return StoredBlock(
            block=self._block, weights=weights, keep=keep, linears=linears, expert_tokens=routed
        )

    def store_outer(self) -> StoredTensors:
        """Write everything outside the blocks, unchanged, a chunk in memory at a time."""
        names = self._stream.outer_tensors()
        return StoredTensors.of(copy_tensors(self._content, "outer.safetensors", self._reader, names))

    def losses(self, scored: Sequence[int]) -> list[tuple[float, int]]:
        """Per sequence: cross-entropy in nats, summed over its last `scored` predictions; their count."""
        self._stream.load_head()
        results = []
        for tokens_L, hidden, count in zip(self._sequences, self._hidden, scored, strict=True):
            logits_LV = self._stream.logits(tokens_L, hidden)[:-1][-count:]
            targets_L = tokens_L[1:][-count:].to(logits_LV.device)
            total = sum(
                functional.cross_entropy(rows.float(), targets, reduction="sum").double().item()
                for rows, targets in zip(logits_LV.split(LOSS_ROWS), targets_L.split(LOSS_ROWS), strict=True)
            )
            results.append((total, len(targets_L)))
        return results

    def _unload(self) -> None:
        if self._module is not None:
            self._stream.release(self._block)
            self._module = None

    def _loaded(self) -> nn.Module:
        assert self._module is not None, "load(block) comes first"
        return self._module

    def _weight(self, linear: str) -> Tensor:
        return turned(self._stored[f"{linear}.weight"], self._stream.row)

    def _statistics_by_linear(
        self, statistics: Sequence[LinearStatistics] | None, linears: Sequence[str], grams: Sequence[Gram]
    ) -> dict[str, LinearStatistics]:
        found: dict[str, LinearStatistics] = {}
        for group, one in zip(self.linear_groups(), statistics or (), strict=statistics is not None):
            asked = [name for name in group if name in linears]
            if not asked:
                continue
            if neglected(self._stream.row.experts, group, one):
                one = indifferent(one, hessian=bool(grams))
            elif grams:
                one = replace(one, hessian_II=hessian(grams, samples=one.samples))
            found |= dict.fromkeys(asked, one.to(self._device))
        return found

    def _moved(self, statistics: Sequence[LinearStatistics]) -> list[LinearStatistics]:
        return [one.to(self._device) for one in statistics]


def _into(shares: Sequence[InputShare], grams: Sequence[GramTree], sample: int) -> Record:
    def record(group: int, x_TI: Tensor) -> None:
        shares[group].record(sample, x_TI)
        if grams:
            grams[group].add(x_TI)

    return record
