"""The guard holds pruned weights at zero.

Shapes: keep tensors are bool in the shape of the parameter, True = kept. They are held packed, and shared out
over the workers (held.py).

Pruned weights enter the engine as zeros. Their gradients are cleared as they come, so that AdamW's moments,
its decay and therefore master and working weights stay zero as well, for every ZeRO stage. `check` verifies
that by reading all of them.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pipeline.artifacts.certificate import Check
from pipeline.errors import ZerosLost
from workers.training import ranks
from workers.training.engine import Engine
from workers.training.held import HeldKeep


class Guard:
    """Holds the keep tensors of an engine's parameters, by parameter name. All workers call its methods."""

    def __init__(
        self,
        engine: Engine,
        keeps: Iterable[tuple[str, Tensor]],
        *,
        linears: Mapping[str, int] | None = None,
    ) -> None:
        """`keeps`: parameter names and keep tensors, equal on all workers; only one is needed at a time.
        `linears`: the number of linears that a parameter consists of, where it is not 1."""
        self._engine = engine
        self._linears = linears or {}
        self._keeps: dict[str, HeldKeep] = {}
        self._gradients: dict[str, Tensor] | None = None
        for name, keep in keeps:
            self._keeps[name] = HeldKeep(keep, engine.device)
            engine.parameters[name].register_hook(self._hook(name))

    @property
    def keeps(self) -> dict[str, HeldKeep]:
        """The keep tensors as they are now."""
        return dict(self._keeps)

    def linears(self, name: str) -> int:
        """The number of linears that a parameter consists of, one after the other."""
        return self._linears.get(name, 1)

    def collect(self) -> None:
        """Sum up whole gradients from now on, those of pruned weights included."""
        self._gradients = {}

    def collected(self) -> dict[str, Tensor]:
        """The gradients since `collect`, summed over micro-batches and workers; float32."""
        assert self._gradients is not None, "collect() comes first"
        gradients, self._gradients = self._gradients, None
        return {name: ranks.add_up(gradients[name]) for name in sorted(gradients)}

    def change(self, name: str, keep: Tensor) -> None:
        """Set a new keep tensor: weights that it drops become zero everywhere, and those that it grows start
        from zero."""
        keep = keep.to(self._engine.device)
        self._engine.zero_out(name, ~(keep & self._keeps[name].whole()))
        self._keeps[name] = HeldKeep(keep, self._engine.device)

    def check(self, step: int) -> Check:
        """Check that every pruned weight is zero in working weights, master weights and moments. Each worker
        checks its own share.

        Raises ZerosLost on all workers with tensor, position, place and step of the first that is not zero.
        """
        held, found = 0, None
        fragments = {fragment.name: fragment for fragment in self._engine.fragments()}
        for name, keep in self._keeps.items():
            fragment = fragments.get(name)
            start, length = (0, 0) if fragment is None else (fragment.start, fragment.length)
            own = ~keep.range(start, length)  # every worker takes part, whatever it has of the parameter
            if fragment is None:
                continue
            held += int(own.sum())
            for place, values in {**fragment.parts, "working": fragment.working}.items():
                found = found or self._revived(fragment.name, place, values, own, start=fragment.start)
        findings = ranks.gathered((held, found))
        for _, one in findings:
            if one is not None:
                raise ZerosLost(f"{one} at step {step}: a pruned weight has come back; nothing is published")
        total = sum(held for held, _ in findings)
        return Check(at="step", step=step, tensors=len(self._keeps), held=total, zeros=total)

    def _revived(self, name: str, place: str, values: Tensor, own: Tensor, *, start: int) -> str | None:
        where = own.to(values.device)
        if not bool(((values != 0) & where).any()):
            return None
        first = int(((values != 0) & where).nonzero()[0])
        shape = self._engine.shapes[name]
        position = tuple(int(i) for i in torch.unravel_index(torch.tensor(start + first), shape))
        return f"{name}{list(position)} ({place}) is {float(values[first]):g}"

    def _hook(self, name: str):  # type: ignore[no-untyped-def]
        def clear(gradient: Tensor) -> Tensor:
            if self._gradients is not None:
                whole = gradient.float()
                held = self._gradients.get(name)
                self._gradients[name] = whole.clone() if held is None else held.add_(whole)
            return self._keeps[name].clear(gradient)

        return clear
