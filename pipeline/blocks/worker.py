"""One worker's share of a sweep over the blocks: its samples' activations, and one block at a time.

Measuring, pruning and evaluating all walk the model in the same way:

    worker.start()                          embeds the sequences
    for block in range(worker.num_blocks):
        worker.load(block)
        worker.measure() / .advance()       runs the block on every sequence
        worker.merge(...)                   merges it with what the other workers measured
        worker.gram(group)                  gives its part of a gram that measuring gathered, for Hessians
        worker.take_gram(gram, group)       takes the sum of all workers' parts
        worker.choose(...)                  chooses new weights for some of the block's linears
        worker.apply(...)                   applies them, and those that other workers chose
    worker.losses()                         returns the cross-entropy per sequence, for evaluation

With `propagation: linear` a block runs once, and pauses where each group of linears is to be pruned:

        worker.reach(group)                 replaces measure: the inputs of one group; merge follows
        worker.choose(...), .apply(...)     for that group
        worker.finish()                     replaces advance

Workers do not know each other: a Crew (crew.py) drives them, and carries what they measured, gradients and
decisions from one to the other.

Shape legend: L tokens, O out_features, I in_features, V vocabulary, S sequences, G groups of linears that
share an input.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from pipeline.allocations.measures import Measure
from pipeline.artifacts.refs import StatisticsRef
from pipeline.blocks.activations import Activations
from pipeline.blocks.beside import Ahead
from pipeline.blocks.block import ChosenLinear, Measured
from pipeline.blocks.fitting import Reconstructor
from pipeline.blocks.gains import recorded_gains
from pipeline.blocks.inputs import Record, recorded_inputs
from pipeline.blocks.measured import Shares
from pipeline.blocks.pauses import PausedRuns
from pipeline.blocks.sharing import Size, size_of
from pipeline.blocks.storing import StoringWalk
from pipeline.methods import BlockMethod
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.tensor.devices import read_together
from pipeline.tensor.needs import Needs
from pipeline.tensor.statistics import Gram, GramTree, InputShare, leaf_size


class SweepWorker(StoringWalk):
    """The worker that the module's docstring describes; see also StoringWalk and Walk."""

    def _prepare(self) -> None:
        super()._prepare()
        self._similarities: list[Tensor] = []
        self._runs: PausedRuns | None = None
        self._reconstructor: Reconstructor | None = None

    def _forget(self) -> None:
        super()._forget()
        self._grams: dict[int, GramTree] = {}  # by group, of this worker's samples

    def sized_groups(self) -> list[dict[str, Size]]:
        """Returns the groups of linears with (out_features, in_features) of each linear."""
        return [{name: size_of(self.work.weight(name)) for name in group} for group in self.work.groups]

    def measure(self, *, advance: bool, needs: Needs) -> Shares:
        """Runs the block on each sequence and returns their shares of the statistics of each group of
        linears; `merge` makes statistics of them.

        With `advance` the outputs become the next block's inputs; without, each forward ends when the inputs
        of the last linears are known. Grams stay in this worker, and so do similarities, which need the
        outputs, and what experts give, which `gains` returns.
        """
        self._similarities = []
        module, groups = self._loaded(), self.linear_groups()
        shares = [self._share(group, needs) for group in range(len(groups))]
        gains = self._gains_to_measure(needs)
        for i, hidden in enumerate(self._hidden):
            record, experts = self._into(shares, i), self._stream.row.experts
            with (
                recorded_gains(module, self._stream.row, gains, sample=i),
                recorded_inputs(module, groups, record, experts=experts, only=not advance),
            ):
                output = self._stream.run(self.work.block, hidden)
            if "similarity" in needs:
                assert advance, "similarities need the block's output"
                before, after = (self._stream.own(self.work.block, one) for one in (hidden, output))
                self._similarities.append(_similarity(before, after))
            if advance:
                self._hidden[i] = output
        self.runs["whole" if advance else "cut"] += len(self._hidden)
        self._gain_share = None if gains is None else gains.on_cpu()
        return self._sharing(range(len(groups)), shares)

    def similarities(self) -> list[float]:
        """Returns for each sequence the mean over its tokens of cos(input, output) of the block, as `measure`
        found it."""
        return read_together(self._similarities)

    def gram(self, group: int) -> Gram:
        """Returns this worker's part of Σ xᵀx over a group's inputs, and no longer holds it."""
        return self._grams.pop(group).parts()

    def reach(self, group: int, *, needs: Needs) -> Shares:
        """Runs each sequence through the block until a group's inputs are known, and returns their share of
        its statistics, like `measure`. Groups must come in their order, each after the earlier ones were
        pruned."""
        if self._runs is None:
            module, experts = self._loaded(), self._stream.row.experts
            forwards = [self._forward(i) for i in range(len(self._hidden))]
            self._runs = PausedRuns(module, self.linear_groups(), forwards, experts=experts)
            self._grams = {}
        share = self._share(group, needs)

        def record(sample: int, x_TI: Tensor) -> None:
            self._into({group: share}, sample)(group, x_TI)

        self._runs.reach(group, record)
        return self._sharing([group], [share])

    def finish(self, *, advance: bool) -> None:
        """Ends the forwards that `reach` began; with `advance` their outputs become the next block's
        inputs."""
        assert self._runs is not None, "reach(group) comes first"
        if advance:
            for i, output in enumerate(self._runs.finish()):
                self._hidden[i] = output
        else:
            self._runs.abandon()
        self.runs["whole" if advance else "cut"] += len(self._hidden)
        self._runs = None

    def measured(
        self, block: int, measure: Measure, statistics: StatisticsRef | None, *, then: Ahead | None = None
    ) -> dict[str, float]:
        """Measures what an allocation needs to know of a block: see BlockWork.measure. No block is run."""
        self.load(block, then=then)
        return self.work.measure(measure, statistics)

    def reconstruct(self, spec: BlockReconstruction) -> None:
        """Prepares to fit blocks: also keeps the dense model's activations."""
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
        """Runs the loaded block, dense, on the dense model's activations: its outputs are the pruned block's
        targets."""
        self._loaded()
        self._fits.advance(self.work.block)

    def begin_fit(self) -> list[float]:
        """Starts to fit the pruned block and returns each sequence's distance to the target (fitting.py)."""
        self._loaded()
        self._fits.begin(self.work.block, self.work.tensors, self.work.keep())
        return self._fits.distances(self._hidden)

    def fit_gradient(self, step: int) -> Gram:
        """Returns the contribution of this worker's sequences to the gradient of a step."""
        return self._fits.gradient(step, self._hidden)

    def fit_step(self, gradient: Tensor, step: int) -> None:
        """Takes a step with the sum of all workers' gradients."""
        self._fits.fitter.step(gradient)

    def fit_distances(self) -> list[float]:
        """Returns the distances that `begin_fit` returns, after the steps so far."""
        return self._fits.distances(self._hidden)

    def end_fit(self, *, take: bool) -> None:
        """Puts the fitted weights into the block if `take` is set, and otherwise leaves it as it was
        pruned."""
        fitted = self._fits.end()
        if take:
            self._unload()
            self.work.tensors = fitted

    def choose(
        self,
        linears: Sequence[str],
        measured: Measured | None,
        method: BlockMethod,
        plan: SparsityPlan,
    ) -> None:
        """Chooses keep and values of some linears by the method: see BlockWork.choose. `measured`: statistics
        from an earlier walk; without them, those of this one count. The module is not needed and leaves
        memory until it has to run again, unless forwards are paused in it."""
        if self._runs is None:
            self._unload()
        self.work.choose(linears, self._known(measured), method, plan, self._totals)
        for g, group in enumerate(self.linear_groups()):
            if any(name in linears for name in group):
                self._totals.pop(g, None)

    def chosen(self, linears: Sequence[str] | None = None) -> dict[str, ChosenLinear]:
        """Returns the decisions so far, all or those on `linears`, for the other workers to apply."""
        return self.work.chosen(linears)

    def apply(self, others: Sequence[Mapping[str, ChosenLinear]]) -> None:
        """Puts this worker's and the other workers' decisions into the block."""
        fresh = self.work.apply({name: linear for part in others for name, linear in part.items()})
        if self._module is not None:
            self._stream.replace(self.work.block, fresh)

    @property
    def _fits(self) -> Reconstructor:
        assert self._reconstructor is not None, "reconstruct(spec) comes first"
        return self._reconstructor

    def _forward(self, sequence: int) -> Callable[[], Tensor]:
        block = self.work.block
        return lambda: self._stream.run(block, self._hidden[sequence])

    def _share(self, group: int, needs: Needs) -> InputShare:
        """Returns an empty share for a group's inputs, and prepares a gram if one is needed."""
        linear = self.linear_groups()[group][0]
        features = self.work.weight(linear).shape[1]
        if "hessian" in needs:
            tree = GramTree(features, leaf=leaf_size(self._samples), first=self._first, device=self._device)
            self._grams[group] = tree
        channel = self._stream.channel_of(linear, features) if "channel_score" in needs else 0
        return InputShare.empty(
            len(self._hidden), features, needs, first=self._first, channel=channel, device=self._device
        )

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


def _similarity(before_1LH: Tensor, after_1LH: Tensor) -> Tensor:
    return functional.cosine_similarity(before_1LH.float(), after_1LH.float(), dim=-1).mean()
