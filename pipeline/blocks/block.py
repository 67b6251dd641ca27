"""The weights of one block while it is worked on: they are measured, pruned and stored. No activations are
needed.

Shape legend: O out_features, I in_features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.allocations.measures import Measure
from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import StatisticsRef
from pipeline.artifacts.sparsity import LinearSparsity
from pipeline.blocks.measures import Part, measure_linears
from pipeline.blocks.routing import indifferent, neglected, tokens_per_expert
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import put_block_keep, turned
from pipeline.checkpoint.statistics import read_hessian, read_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import put_tensors
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.methods import BlockMethod
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import ContentStore
from pipeline.tensor.devices import read_together
from pipeline.tensor.masks import finite
from pipeline.tensor.packing import pack_keep, unpack_keep
from pipeline.tensor.statistics import LinearStatistics, hessian

Measured = Sequence[LinearStatistics | None] | StatisticsRef  # for each group of linears, or as stored


@dataclass(frozen=True)
class ChosenLinear:
    """A method's decision for one linear: the packed keep, and the new values as they are stored."""

    packed_keep: Tensor
    pruned: int
    weight_OI: Tensor
    note: str | None


class BlockWork:
    """`tensors` maps names inside the block to weights, as the checkpoint has them or as they were stored
    after pruning. Linears that share an input, and so a statistic, form a group."""

    def __init__(
        self,
        content: ContentStore,
        stream: BlockStream,
        block: int,
        tensors: dict[str, Tensor],
        *,
        device: torch.device,
    ) -> None:
        self._content = content
        self._device = device
        self._row = stream.row
        self._names = stream.block_tensors(block)
        self._chosen: dict[str, ChosenLinear] = {}
        self._applied: set[str] = set()
        self.block = block
        self.groups = stream.groups(block)
        self.tensors = tensors

    def tensor_name(self, linear: str) -> str:
        """Returns the checkpoint's name of a linear's weight."""
        return self._names[f"{linear}.weight"]

    def weight(self, linear: str) -> Tensor:
        """Returns a linear's weight in its stored type, [O, I]."""
        return turned(self.tensors[f"{linear}.weight"], self._row, linear)

    def measure(self, measure: Measure, statistics: StatisticsRef | None) -> dict[str, float]:
        """Measures what an allocation needs: one number for the block under the name "", or one per linear.

        Experts that received too few tokens have no meaningful saliencies and are left out.
        """
        weights: dict[str, Part] = {}
        saliencies: dict[str, Part] = {}
        groups = [None] * len(self.groups) if statistics is None else self._vectors(statistics)
        for group, one in zip(self.groups, groups, strict=True):
            if one is not None and neglected(self._row.experts, group, one):
                continue
            for name in group:
                weights[name] = self._on_device(name)
                if one is not None:
                    saliencies[name] = _saliency(weights[name], one.input_norm_I.to(self._device))
        values = measure_linears(measure, list(weights.values()), list(saliencies.values()))
        return {"": values[0]} if measure.scope == "block" else dict(zip(weights, values, strict=True))

    def choose(
        self,
        linears: Sequence[str],
        measured: Measured | None,
        method: BlockMethod,
        plan: SparsityPlan,
        grams: Mapping[int, Tensor],
    ) -> None:
        """Chooses keep and values of some linears by the method, and holds the decisions in this object.

        `grams`: by group, Σ xᵀx over all samples [I, I], for methods that need Hessians. Stored statistics
        already contain the Hessians.
        """
        by_linear = self._by_linear(measured, linears, method, grams)
        chosen: dict[str, ChosenLinear] = {}
        facts: list[Tensor] = []  # the numbers of kept weights, and whether all new ones are finite
        for name in linears:
            where = f"block {self.block} {name}"
            weight_OI = self.weight(name).to(self._device)
            pattern = plan.pattern(self.block, name, weights=weight_OI.numel())
            try:
                keep_OI, new_OI, note = method.choose(weight_OI, by_linear.get(name), pattern)
            except (NumericalError, InvalidSpec) as error:
                raise type(error)(f"{where}: {error.message}", error.param) from error
            chosen[name] = ChosenLinear(
                packed_keep=pack_keep(keep_OI).cpu(),
                pruned=keep_OI.numel(),
                weight_OI=new_OI.to(weight_OI.dtype).cpu().contiguous(),
                note=note,
            )
            facts += [torch.count_nonzero(keep_OI), finite(new_OI).long()]
        found = read_together(facts)  # once for all linears: a device would wait after each otherwise
        for (name, one), kept, sound in zip(chosen.items(), found[::2], found[1::2], strict=True):
            if not sound:
                raise NumericalError(
                    f"block {self.block} {name}: method {method.kind} made non-finite weights"
                )
            self._chosen[name] = replace(one, pruned=one.pruned - int(kept))

    def chosen(self, linears: Sequence[str] | None = None) -> dict[str, ChosenLinear]:
        """Returns the decisions so far, all or those on `linears`, for the other workers to apply."""
        return {name: one for name, one in self._chosen.items() if linears is None or name in linears}

    def apply(self, others: Mapping[str, ChosenLinear]) -> dict[str, Tensor]:
        """Puts this worker's and the other workers' decisions into the block's tensors, and returns the newly
        applied ones by their names inside the block."""
        self._chosen |= others
        fresh = {
            f"{name}.weight": turned(linear.weight_OI, self._row, name).contiguous()
            for name, linear in self._chosen.items()
            if name not in self._applied
        }
        self._applied |= self._chosen.keys()
        self.tensors |= fresh
        return fresh

    def keep(self) -> dict[str, Tensor]:
        """Returns the keep tensors of the decided linears, oriented like the weights, by their names inside
        the block."""
        return {
            f"{name}.weight": turned(
                unpack_keep(one.packed_keep, tuple(one.weight_OI.shape)), self._row, name
            )
            for name, one in self._chosen.items()
        }

    def storing(self, measured: Measured | None, fit: BlockFit | None) -> Callable[[], StoredBlock]:
        """Returns a function that writes the block with its present weights and keep tensors. It needs no
        more of this object, and may run in another thread. `measured`: the statistics by which the block was
        pruned."""
        content, block, experts, groups = self._content, self.block, self._row.experts, self.groups
        tensors = {disk: self.tensors[name] for name, disk in self._names.items()}
        packed = {self.tensor_name(name): linear.packed_keep for name, linear in self._chosen.items()}
        linears = tuple(
            LinearSparsity(
                block=self.block,
                linear=name,
                pruned=self._chosen[name].pruned,
                zeros=self.weight(name).numel() - int(torch.count_nonzero(self.weight(name))),
                weights=self.weight(name).numel(),
                note=self._chosen[name].note,
            )
            for group in self.groups
            for name in group
        )

        def put() -> StoredBlock:
            known = measured
            if isinstance(known, StatisticsRef):
                known = read_statistics(content, known, block)
            counted = None if known is None else [one for one in known if one is not None]
            return StoredBlock(
                block=block,
                weights=StoredTensors.of(put_tensors(content, f"block-{block:05d}.safetensors", tensors)),
                keep=put_block_keep(content, block, packed),
                linears=linears,
                expert_tokens=tokens_per_expert(experts, groups, counted),
                fit=fit,
            )

        return put

    def _on_device(self, linear: str) -> Part:
        return lambda: self.weight(linear).to(self._device)

    def _vectors(self, measured: Measured) -> Sequence[LinearStatistics | None]:
        if isinstance(measured, StatisticsRef):
            return read_statistics(self._content, measured, self.block)
        return measured

    def _by_linear(
        self,
        measured: Measured | None,
        linears: Sequence[str],
        method: BlockMethod,
        grams: Mapping[int, Tensor],
    ) -> dict[str, LinearStatistics]:
        if measured is None:
            return {}
        found: dict[str, LinearStatistics] = {}
        solves = "hessian" in method.needs
        for g, (group, one) in enumerate(zip(self.groups, self._vectors(measured), strict=True)):
            asked = [name for name in group if name in linears]
            if not asked:
                continue
            assert one is not None, f"the inputs of {asked} were not measured"
            if neglected(self._row.experts, group, one):
                one = indifferent(one, hessian=solves)
            elif solves and isinstance(measured, StatisticsRef):
                one = replace(one, hessian_II=read_hessian(self._content, measured, self.block, g))
            elif solves:
                one = replace(one, hessian_II=hessian(grams[g], samples=one.samples))
            found |= dict.fromkeys(asked, one.to(self._device))
        return found


def _saliency(weight: Part, input_norm_I: Tensor) -> Callable[[], Tensor]:
    return lambda: weight().abs().float().mul_(input_norm_I)
