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

With `propagation: linear` a block runs once, and stops where each group of linears is to be pruned:

        worker.reach(group)                 in the place of measure: the inputs of one group
        worker.choose(...), .apply(...)     of that group
        worker.finish()                     in the place of advance

Workers never talk to each other: a Crew (crew.py) drives them and merges their answers in sequence order.

Shape legend: L tokens, O out_features, I in_features, V vocabulary, S sequences, G groups of linears that see
the same input.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.allocations.measures import Measure
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import CheckpointRef, StatisticsRef
from pipeline.blocks.activations import Activations, MemoryBudget
from pipeline.blocks.block import ChosenLinear, Measured
from pipeline.blocks.fitting import Reconstructor
from pipeline.blocks.inputs import Record, recorded_inputs
from pipeline.blocks.pauses import PausedRuns
from pipeline.blocks.walk import Walk
from pipeline.checkpoint.statistics import put_hessian, put_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.methods import OneShot
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import ContentStore
from pipeline.tensor.needs import Needs
from pipeline.tensor.statistics import Gram, GramTree, InputShare, LinearStatistics, hessian, leaf_size


class SweepWorker(Walk):
    """See the module's text, and Walk."""

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
        super().__init__(
            content,
            checkpoint,
            sequences,
            dtype=dtype,
            device=device,
            first=first,
            samples=samples,
            budget=budget,
        )
        self._grams: dict[int, GramTree] = {}
        self._similarities: list[float] = []
        self._runs: PausedRuns | None = None
        self._reconstructor: Reconstructor | None = None

    def load(self, block: int, stored: StoredBlock | None = None) -> None:
        """Bring one block into memory, as the checkpoint has it or as it was stored after pruning."""
        self._grams = {}
        super().load(block, stored)

    def linear_groups(self) -> tuple[tuple[str, ...], ...]:
        """Linears of the loaded block that share an input, and so a statistic."""
        return self.work.groups

    def measure(self, *, advance: bool, needs: Needs) -> list[InputShare]:
        """Run the block on each sequence; what they add to the statistics, per group of linears.

        With `advance` the outputs become the next block's inputs; without, each forward ends where the inputs
        of the last linears are known. Grams stay here, and similarities, which need the outputs.
        """
        self._similarities = []
        module, groups = self._loaded(), self.linear_groups()
        shares = [self._share(group, needs) for group in range(len(groups))]
        for i, hidden in enumerate(self._hidden):
            record, experts = self._into(shares, i), self._stream.row.experts
            with recorded_inputs(module, groups, record, experts=experts, only=not advance):
                output = self._stream.run(self.work.block, hidden)
            if "similarity" in needs:
                assert advance, "the output is made only then"
                self._similarities.append(_similarity(hidden, output))
            if advance:
                self._hidden[i] = output
        self.runs["whole" if advance else "cut"] += len(self._hidden)
        return shares

    def similarities(self) -> list[float]:
        """Per sequence what `measure` found: the mean over its tokens of cos(input, output) of the block."""
        return self._similarities

    def gram(self, group: int) -> Gram:
        """This worker's part of Σ xᵀx over a group's inputs."""
        return self._grams[group].parts()

    def reach(self, group: int, *, needs: Needs) -> InputShare:
        """Run each sequence through the block to where a group's inputs are known; what they add to its
        statistics. Groups come in their order, each after the ones before it were pruned."""
        if self._runs is None:
            module, experts = self._loaded(), self._stream.row.experts
            forwards = [self._forward(i) for i in range(len(self._hidden))]
            self._runs = PausedRuns(module, self.linear_groups(), forwards, experts=experts)
            self._grams = {}
        self._grams.pop(group - 1, None)
        share = self._share(group, needs)

        def record(sample: int, x_TI: Tensor) -> None:
            self._into({group: share}, sample)(group, x_TI)

        self._runs.reach(group, record)
        return share

    def finish(self, *, advance: bool) -> None:
        """End the forwards that `reach` has begun; their outputs become the next block's inputs."""
        assert self._runs is not None, "reach(group) comes first"
        if advance:
            for i, output in enumerate(self._runs.finish()):
                self._hidden[i] = output
        else:
            self._runs.abandon()
        self.runs["whole" if advance else "cut"] += len(self._hidden)
        self._runs = None

    def measured(self, block: int, measure: Measure, statistics: StatisticsRef | None) -> dict[str, float]:
        """What an allocation wants to know of a block: see BlockWork.measure. Nothing is run."""
        self.load(block)
        return self.work.measure(measure, statistics)

    def reconstruct(self, spec: BlockReconstruction) -> None:
        """Blocks are to be fitted: keep the dense model's activations too."""
        self._activations["targets"] = Activations((one.clone() for one in self._hidden), budget=self._budget)
        self._reconstructor = Reconstructor(
            self._stream,
            self._activations["targets"],
            spec,
            first=self._first,
            samples=self._samples,
            dtype=self._dtype,
            device=self._device,
        )

    def advance_targets(self) -> None:
        """Run the loaded block, dense, on the dense model's activations: its outputs are what the pruned
        block is to give."""
        self._loaded()
        self._fits.advance(self.work.block)

    def begin_fit(self) -> list[float]:
        """Start to fit the block, pruned; per sequence its distance to the target (fitting.py)."""
        self._loaded()
        self._fits.begin(self.work.block, self.work.tensors, self.work.keep())
        return self._fits.distances(self._hidden)

    def fit_gradient(self, step: int) -> Gram:
        """What this worker's sequences add to the gradient of a step."""
        return self._fits.gradient(step, self._hidden)

    def fit_step(self, gradients: Sequence[Gram]) -> None:
        """Take a step with every worker's gradients, in sequence order."""
        self._fits.fitter.step(gradients)

    def fit_distances(self) -> list[float]:
        """As begin_fit, after some steps."""
        return self._fits.distances(self._hidden)

    def end_fit(self, *, take: bool) -> None:
        """Put what was fitted into the block, or leave it as it was pruned."""
        fitted = self._fits.end()
        if take:
            self._unload()
            self.work.tensors = fitted

    def choose(
        self,
        grams: Sequence[Gram],
        linears: Sequence[str],
        measured: Measured | None,
        method: OneShot,
        plan: SparsityPlan,
    ) -> None:
        """Decide some linears of the block by the method: see BlockWork.choose. The module is not needed for
        it and leaves memory until it has to run again, unless forwards pause in it."""
        if self._runs is None:
            self._unload()
        self.work.choose(linears, measured, method, plan, grams)

    def chosen(self, linears: Sequence[str] | None = None) -> dict[str, ChosenLinear]:
        """The decisions so far, all or those on `linears`, to be applied by the other workers."""
        return self.work.chosen(linears)

    def apply(self, others: Sequence[dict[str, ChosenLinear]]) -> None:
        """Put the decisions, our own and those of the other workers, into the block."""
        fresh = self.work.apply({name: linear for part in others for name, linear in part.items()})
        if self._module is not None:
            self._stream.replace(self.work.block, fresh)

    def store(
        self, measured: Sequence[LinearStatistics] | StatisticsRef | None, fit: BlockFit | None = None
    ) -> StoredBlock:
        """Write the block with its new weights and its keep tensors. `measured`: what it was pruned by."""
        return self.work.store(measured, fit)

    def store_statistics(
        self, statistics: Sequence[LinearStatistics], similarity: float | None = None
    ) -> FileRef:
        """Write the statistics of the loaded block, without Hessians."""
        return put_statistics(self._content, self.work.block, statistics, similarity)

    def store_hessian(self, grams: Sequence[Gram], group: int, samples: int) -> FileRef:
        """Write the Hessian of a group of the loaded block, from every worker's grams."""
        return put_hessian(self._content, self.work.block, group, hessian(grams, samples=samples))

    @property
    def _fits(self) -> Reconstructor:
        assert self._reconstructor is not None, "reconstruct(spec) comes first"
        return self._reconstructor

    def _forward(self, sequence: int) -> Callable[[], Tensor]:
        block = self.work.block
        return lambda: self._stream.run(block, self._hidden[sequence])

    def _share(self, group: int, needs: Needs) -> InputShare:
        """An empty share for a group's inputs, with a gram beside it if one is needed."""
        linear = self.linear_groups()[group][0]
        features = self.work.weight(linear).shape[1]
        if "hessian" in needs:
            tree = GramTree(features, leaf=leaf_size(self._samples), first=self._first, device=self._device)
            self._grams[group] = tree
        channel = self._stream.channel_of(linear) if "channel_score" in needs else 0
        return InputShare(len(self._hidden), features, needs, channel=channel)

    def _into(self, shares: Sequence[InputShare] | dict[int, InputShare], sample: int) -> Record:
        def record(group: int, x_TI: Tensor) -> None:
            shares[group].record(sample, x_TI)
            if group in self._grams:
                self._grams[group].add(x_TI)

        return record

    def _unload(self) -> None:
        if self._runs is not None:
            self.finish(advance=False)
        super()._unload()


def _similarity(before_1LH: Tensor, after_1LH: Tensor) -> float:
    return float(functional.cosine_similarity(before_1LH.float(), after_1LH.float(), dim=-1).mean())
