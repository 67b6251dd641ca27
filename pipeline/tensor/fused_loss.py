"""The loss of a model's last hidden states under its output weights. Logits exist for some tokens at a time,
so that those of a large vocabulary never stand whole.

The gradients of hidden states and output weights are computed in the forward pass, as those of distillation
are (divergence.py): the backward pass then needs neither logits nor weights. They are equal to those of
objective_loss on whole logits, but for rounding.

Shape legend: B sequences, L tokens per sequence, T = B·L tokens, V vocabulary, H hidden size.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.spec.training_recipe import Objective
from pipeline.tensor.divergence import NOTHING, summed_losses

CHUNK = 2**26  # logits that exist at a time: 256 MiB in float32, a few times over


@dataclass(frozen=True)
class Output:
    """The end of a model: hidden states [T, H], output weights [V, H], and the bound c of logits that are
    c · tanh(logits / c), if they are bounded."""

    hidden_TH: Tensor
    weight_VH: Tensor
    cap: float | None = None

    def logits(self, rows: slice) -> Tensor:
        """The logits of some tokens."""
        logits = functional.linear(self.hidden_TH[rows], self.weight_VH)
        return logits if self.cap is None else (logits / self.cap).tanh() * self.cap


def fused_loss(
    objective: Objective, student: Output, targets_T: Tensor, teacher: Output | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the loss to minimise without its hidden-state term, with its gradient, and the mean
    cross-entropy in it; both in nats, and means over the tokens that have a target (not NOTHING).

    Gradients go to the student's hidden states and output weights, where these require them.
    """
    asked = torch.is_grad_enabled()
    loss, lm_loss = _Fused.apply(
        student.hidden_TH, student.weight_VH, student.cap, targets_T, objective, teacher, asked
    )
    return loss, lm_loss


class _Context(Protocol):
    gradients: tuple[Tensor | None, Tensor | None]
    dtypes: tuple[torch.dtype, torch.dtype]

    def mark_non_differentiable(self, *outputs: Tensor) -> None: ...


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        hidden_TH: Tensor,
        weight_VH: Tensor,
        cap: float | None,
        targets_T: Tensor,
        objective: Objective,
        teacher: Output | None,
        asked: bool,
    ) -> tuple[Tensor, Tensor]:
        kept_as = torch.promote_types(hidden_TH.dtype, torch.float32)
        by_hidden = torch.zeros_like(hidden_TH, dtype=kept_as) if asked and hidden_TH.requires_grad else None
        by_weight = torch.zeros_like(weight_VH, dtype=kept_as) if asked and weight_VH.requires_grad else None
        wanted = by_hidden is not None or by_weight is not None
        student = Output(hidden_TH.detach(), weight_VH.detach(), cap)
        sums = torch.zeros(2, dtype=kept_as, device=hidden_TH.device)
        step = max(1, CHUNK // len(weight_VH))
        for start in range(0, len(targets_T), step):
            rows = slice(start, start + step)
            raw_TV = functional.linear(student.hidden_TH[rows], student.weight_VH).requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                logits_TV = raw_TV.to(kept_as)
                if cap is not None:
                    logits_TV = (logits_TV / cap).tanh() * cap
                taught_TV = None if teacher is None else teacher.logits(rows).detach()
                loss, lm_loss = summed_losses(logits_TV, taught_TV, targets_T[rows], objective)
                # Summed over tokens, the gradient of a logit is near 1: it does not underflow in float16.
                gradient_TV = torch.autograd.grad(loss, raw_TV)[0] if wanted else None
            sums += torch.stack((loss.detach(), lm_loss.detach()))
            if by_hidden is not None and gradient_TV is not None:
                by_hidden[rows] = gradient_TV @ student.weight_VH
            if by_weight is not None and gradient_TV is not None:
                by_weight += gradient_TV.t() @ student.hidden_TH[rows]
        count = (targets_T != NOTHING).sum()
        for gradient in (by_hidden, by_weight):
            if gradient is not None:
                gradient.div_(count)
        ctx.gradients = (by_hidden, by_weight)
        ctx.dtypes = (hidden_TH.dtype, weight_VH.dtype)
        loss, lm_loss = sums / count
        ctx.mark_non_differentiable(lm_loss)
        return loss, lm_loss

    @staticmethod
    def backward(
        ctx: _Context, loss: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None, None]:
        scaled = [
            None if gradient is None else gradient.mul_(loss).to(dtype)
            for gradient, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)
        ]
        ctx.gradients = (None, None)
        return scaled[0], scaled[1], None, None, None, None, None
