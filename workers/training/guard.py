"""The guard holds pruned weights at zero.

Shapes: keep tensors are bool in the shape of the stored weight, True = kept.

Pruned weights enter the engine as zeros. Their gradients are cleared as they come, so that AdamW's moments,
its decay and therefore master and working weights stay zero as well, for every ZeRO stage. `check` verifies
that by reading all of them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.artifacts.certificate import Check
from pipeline.errors import ZerosLost
from workers.training import ranks
from workers.training.engine import Engine


class Guard:
    """Holds the keep tensors of an engine's parameters, by parameter name."""

    def __init__(self, engine: Engine, keeps: Mapping[str, Tensor]) -> None:
        self._engine = engine
        self._keeps = {name: keep.to(engine.device) for name, keep in keeps.items()}
        self._gradients: dict[str, Tensor] | None = None
        for name in self._keeps:
            engine.parameters[name].register_hook(self._hook(name))

    @property
    def keeps(self) -> dict[str, Tensor]:
        """The keep tensors as they are now."""
        return dict(self._keeps)

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
        self._engine.zero_out(name, ~(keep & self._keeps[name]))
        self._keeps[name] = keep

    def check(self, step: int) -> Check:
        """Check that every pruned weight is zero in working weights, master weights and moments. Each worker
        checks its own share.

        Raises ZerosLost on all workers with tensor, position, place and step of the first that is not zero.
        """
        held, found = 0, None
        for fragment in self._engine.fragments():
            keep = self._keeps.get(fragment.name)
            if keep is None:
                continue
            own = ~keep.reshape(-1)[fragment.start : fragment.start + fragment.length]
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
            # In place is safe, as the gradient of a linear is a tensor of its own. masked_fill takes five
            # times as long.
            return gradient.mul_(self._keeps[name])

        return clear
