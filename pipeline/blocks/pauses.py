"""Forwards of one block that pause where the inputs of a group of linears are known.

Every sample's forward runs in its own greenlet: the block of transformers is called unchanged, and the hook
before a group's first linear hands control back. When all samples have arrived, the group can be pruned, and
the forwards continue through the new weights. So each block runs once, and each linear is measured on the
outputs of the linears before it after pruning.

Shape legend: T tokens, I in_features.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from pipeline.architecture.row import Experts
from pipeline.blocks.inputs import recorded_inputs
from pipeline.errors import UnsupportedCheckpoint

Record = Callable[[int, Tensor], None]  # sample, x_TI


class PausedRuns:
    """`runs`: the forwards, one per sample, each through the same `block`."""

    def __init__(
        self,
        block: nn.Module,
        groups: Sequence[Sequence[str]],
        runs: Sequence[Callable[[], Tensor]],
        *,
        experts: Experts | None = None,
    ) -> None:
        self._hooks = ExitStack()
        if runs:
            self._hooks.enter_context(recorded_inputs(block, groups, _pause, experts=experts))
        self._forwards = [greenlet(run) for run in runs]
        self._arrived: list[tuple[int, Tensor] | None] = [None] * len(runs)

    def reach(self, group: int, record: Record) -> None:
        """Runs every sample until a group's inputs are known, and records them. Groups must come in their
        order.

        Raises UnsupportedCheckpoint when the block calls its linears in another order.
        """
        for sample, forward in enumerate(self._forwards):
            arrived = self._arrived[sample]
            if arrived is None or arrived[0] < group:
                arrived = self._arrived[sample] = self._resumed(forward)
            if arrived[0] != group:
                raise UnsupportedCheckpoint(
                    f"the block calls its linears in an order of its own (group {arrived[0]} where {group} "
                    f"was due); use propagation pruned",
                    "spec.prune.propagation",
                )
            record(sample, arrived[1])

    def finish(self) -> list[Tensor]:
        """Runs every sample to its end and returns the block's outputs."""
        with self._hooks:
            return [forward.switch() for forward in self._forwards]

    def abandon(self) -> None:
        """Ends the forwards where they are."""
        with self._hooks:
            for forward in self._forwards:
                forward.throw()

    def _resumed(self, forward: greenlet) -> tuple[int, Tensor]:
        arrived: tuple[int, Tensor] = forward.switch()
        return arrived


def _pause(group: int, x_TI: Tensor) -> None:
    here = getcurrent()
    assert here.parent is not None, "forwards that pause run in a greenlet"
    here.parent.switch((group, x_TI))
