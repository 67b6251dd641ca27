"""Zeros that move while training: dynamic (drop and grow weights) and gradual (prune more and more)."""

import torch
from torch import Tensor

from pipeline.artifacts.curve import KeepUpdate
from pipeline.spec.recovery import Dynamic, Gradual, KeepRule
from pipeline.tensor.regrow import cubic_sparsity, decayed_share, prune_to, regrow
from workers.training.engine import Engine
from workers.training.guard import Guard


class Mover:
    """Applies a rule to a guard's keep tensors. All workers compute the same, from the same whole tensors."""

    def __init__(self, rule: KeepRule, engine: Engine, guard: Guard | None, *, total_steps: int) -> None:
        self._rule = rule
        self._engine = engine
        self._guard = guard
        self._total = total_steps
        self._first: dict[str, list[float]] = {}  # the first sparsity of each linear of a parameter
        if isinstance(rule, Gradual) and guard is not None:
            for name, keep in guard.keeps.items():
                each = keep.whole().view(guard.linears(name), -1)
                self._first[name] = [1 - float(one.float().mean()) for one in each]

    def before(self, step: int) -> None:
        """Prepare for a step before its backward passes."""
        if self._moves(step) and isinstance(self._rule, Dynamic):
            assert self._guard is not None
            self._guard.collect()

    def after(self, step: int, *, taken: bool) -> KeepUpdate | None:
        """Move zeros after a step. `taken`: whether the optimizer took it; if not, its gradients are
        unusable and nothing moves."""
        if not self._moves(step):
            return None
        assert self._guard is not None
        gradients = self._guard.collected() if isinstance(self._rule, Dynamic) else {}
        if not taken:
            return None
        dropped = grown = zeros = 0
        for name, held in self._guard.keeps.items():
            keep = held.whole()
            new = self._moved(name, keep, step, gradients)
            dropped += int((keep & ~new).sum())
            grown += int((new & ~keep).sum())
            zeros += int((~new).sum())
            self._guard.change(name, new)
        return KeepUpdate(step=step, dropped=dropped, grown=grown, zeros=zeros)

    def _moved(self, name: str, keep: Tensor, step: int, gradients: dict[str, Tensor]) -> Tensor:
        """The new keep tensor of a parameter. Each of its linears moves by itself: fused experts are many."""
        assert self._guard is not None
        weight = self._engine.full(name)
        gradient = gradients.get(name, weight)  # Gradual needs none
        shape = (self._guard.linears(name), -1, keep.shape[-1])
        linears = zip(*(one.reshape(shape) for one in (weight, keep, gradient)), strict=True)
        moved = [self._moved_linear(name, number, step, *tensors) for number, tensors in enumerate(linears)]
        return torch.stack(moved).view(keep.shape)

    def _moved_linear(
        self, name: str, number: int, step: int, weight: Tensor, keep: Tensor, gradient: Tensor
    ) -> Tensor:
        rule = self._rule
        if isinstance(rule, Dynamic):
            share = decayed_share(rule.share, step, total=self._total, until=rule.until)
            return regrow(weight, keep, gradient, share)
        assert isinstance(rule, Gradual)
        start = self._first[name][number]
        target = cubic_sparsity(step, total=self._total, until=rule.until, start=start, end=rule.sparsity)
        return prune_to(weight, keep, target)

    def _moves(self, step: int) -> bool:
        rule = self._rule
        if rule.kind == "held" or self._guard is None:
            return False
        return step % rule.every_steps == 0 and step <= rule.until * self._total
