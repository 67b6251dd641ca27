"""Distances between a student's and a teacher's distributions and hidden states, differentiable in the
student.

They are computed in float32 (float64 where both sides are float64), whatever type the models run in.

Shape legend: B sequences, L tokens per sequence, T tokens, V vocabulary, H hidden size, K separate outcomes.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.spec.training_recipe import Distillation, LanguageModelling, Objective

Divergence = Literal["forward", "reverse", "jensen_shannon"]

ROWS = 512  # tokens whose distributions are compared at a time
NOTHING = -100  # the target of the last token, which has no successor


def objective_loss(
    objective: Objective,
    student_logits_BLV: Tensor,
    tokens_BL: Tensor,
    *,
    teacher_logits_BLV: Tensor | None = None,
    student_hiddens: Sequence[Tensor] = (),
    teacher_hiddens: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Returns the loss to minimise, with its gradient, and the mean cross-entropy in it, for the record. Both
    are in nats and are means over the B·(L-1) predictions.

    See pipeline/spec/training_recipe.py for the formula. The last position of each sequence has no next
    token, so its distribution does not count. `student_hiddens` [B, L, H]: the outputs of all the student's
    blocks; `teacher_hiddens`: those of the teacher's blocks that `matching_blocks` names, equally many. They
    count at all L positions, and only when hidden_weight is above 0.
    """
    targets_T = targets_of(tokens_BL)
    student_TV = student_logits_BLV.flatten(0, 1)
    if isinstance(objective, LanguageModelling):
        lm_loss = functional.cross_entropy(_wide(student_TV), targets_T, ignore_index=NOTHING)
        return lm_loss, lm_loss
    assert teacher_logits_BLV is not None, "distillation needs the teacher's logits"
    teacher_TV = teacher_logits_BLV.flatten(0, 1)
    loss, lm_loss = _Distilled.apply(student_TV, teacher_TV, targets_T, objective)
    return loss + hidden_loss(objective, student_hiddens, teacher_hiddens), lm_loss


def hidden_loss(
    objective: Objective, student_hiddens: Sequence[Tensor], teacher_hiddens: Sequence[Tensor]
) -> Tensor | float:
    """The part of the loss that compares hidden states; 0 where hidden_weight is 0. See objective_loss."""
    if isinstance(objective, LanguageModelling) or objective.hidden_weight == 0:
        return 0.0
    distances = [
        hidden_distance(student.flatten(0, 1), teacher.flatten(0, 1))
        for student, teacher in zip(student_hiddens, teacher_hiddens, strict=True)
    ]
    assert distances, "hidden_weight needs the hidden states of both models"
    return objective.hidden_weight * torch.stack(distances).mean()


def targets_of(tokens_BL: Tensor) -> Tensor:
    """The next token of each position, int64 [B·L]; NOTHING at the end of each sequence."""
    return functional.pad(tokens_BL[:, 1:], (0, 1), value=NOTHING).flatten()


def divergence_each(
    student_TV: Tensor,
    teacher_TV: Tensor,
    kind: Divergence,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    normalized: bool = False,
) -> Tensor:
    """The divergence of each token between softmax(logits / temperature), times temperature², in nats.

    `forward` is KL(teacher ‖ student), `reverse` is KL(student ‖ teacher), and `jensen_shannon` is the mean
    of both divergences from their mixture. With `top_k` below V both distributions are coarsened first: the
    teacher's k most probable tokens remain separate outcomes and all others form one; this never exceeds the
    full divergence. `normalized`: the student's logits are log-probabilities already.
    """
    student, teacher = _wide(student_TV), _wide(teacher_TV.detach())
    if temperature != 1:
        student, teacher, normalized = student / temperature, teacher / temperature, False
    if top_k is not None and top_k < teacher.shape[-1]:
        chosen_TK = teacher.topk(top_k, dim=-1).indices
        student_TK, teacher_TK = _coarse(student, chosen_TK), _coarse(teacher, chosen_TK)
    else:
        student_TK = student if normalized else student.log_softmax(-1)
        teacher_TK = teacher.log_softmax(-1)
    if kind == "forward":
        each_T = _kl(teacher_TK, student_TK)
    elif kind == "reverse":
        each_T = _kl(student_TK, teacher_TK)
    else:
        mixture_TK = torch.logaddexp(student_TK, teacher_TK) - math.log(2)
        each_T = (_kl(teacher_TK, mixture_TK) + _kl(student_TK, mixture_TK)) / 2
    return each_T * temperature**2


def summed_losses(
    student_TV: Tensor, teacher_TV: Tensor | None, targets_T: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The objective without its hidden-state term, and its cross-entropy, each summed over tokens.
    `teacher_TV`: the teacher's logits, in distillation."""
    student = _wide(student_TV).log_softmax(-1)
    lm_loss = functional.nll_loss(student, targets_T, ignore_index=NOTHING, reduction="sum")
    if isinstance(objective, LanguageModelling) or objective.lm_weight == 1:
        return lm_loss, lm_loss
    assert teacher_TV is not None, "distillation needs the teacher's logits"
    each_T = divergence_each(
        student,
        teacher_TV,
        objective.divergence,
        temperature=objective.temperature,
        top_k=objective.top_k,
        normalized=True,
    )
    divergence = torch.where(targets_T != NOTHING, each_T, 0).sum()
    return objective.lm_weight * lm_loss + (1 - objective.lm_weight) * divergence, lm_loss


def hidden_distance(student_TH: Tensor, teacher_TH: Tensor) -> Tensor:
    """The mean squared difference, divided by the teacher's mean square."""
    student, teacher = _wide(student_TH), _wide(teacher_TH.detach())
    smallest = torch.finfo(teacher.dtype).tiny  # avoids a division by zero
    return (student - teacher).square().mean() / teacher.square().mean().clamp_min(smallest)


def matching_blocks(student_blocks: int, teacher_blocks: int) -> tuple[int, ...]:
    """For each block of the student, the block of the teacher at the same relative depth; the last matches
    the last.

    Block i of n has the relative depth (i + 1) / n; a tie goes to the later block.
    """
    return tuple(
        max((2 * (i + 1) * teacher_blocks + student_blocks) // (2 * student_blocks) - 1, 0)
        for i in range(student_blocks)
    )


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


class _Context(Protocol):
    gradient: Tensor | None
    dtype: torch.dtype

    def mark_non_differentiable(self, *outputs: Tensor) -> None: ...


class _Distilled(torch.autograd.Function):
    """Computes both losses in batches of rows. The gradient is computed in the forward pass: the intermediate
    values take several times the memory of the logits, and would otherwise be kept or computed twice."""

    @staticmethod
    def forward(
        ctx: _Context, student_TV: Tensor, teacher_TV: Tensor, targets_T: Tensor, objective: Distillation
    ) -> tuple[Tensor, Tensor]:
        wanted = student_TV.requires_grad
        # Loss scaling for float16 happens only later, so a float16 gradient could underflow here.
        kept_as = torch.float32 if student_TV.dtype == torch.float16 else student_TV.dtype
        gradient_TV = torch.empty_like(student_TV, dtype=kept_as) if wanted else None
        ctx.gradient = gradient_TV
        ctx.dtype = student_TV.dtype
        count = (targets_T != NOTHING).sum()
        sums = []
        for start in range(0, len(targets_T), ROWS):
            rows = slice(start, start + ROWS)
            with torch.set_grad_enabled(wanted):
                part_TV = student_TV[rows].detach().requires_grad_(wanted)
                both = (
                    torch.stack(summed_losses(part_TV, teacher_TV[rows], targets_T[rows], objective)) / count
                )
                if gradient_TV is not None:
                    (gradient_TV[rows],) = torch.autograd.grad(both[0], part_TV)
            sums.append(both.detach())
        loss, lm_loss = torch.stack(sums).sum(0)
        ctx.mark_non_differentiable(lm_loss)
        return loss, lm_loss

    @staticmethod
    def backward(ctx: _Context, loss: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None
        assert gradient is not None, "backward can run only once"
        return gradient.mul_(loss).to(ctx.dtype), None, None, None


def _coarse(logits_TV: Tensor, chosen_TK: Tensor) -> Tensor:
    """Log-probabilities [T, K+1] of the chosen tokens and of all others together.

    The remainder is summed directly: 1 - (chosen probabilities) would lose precision where they sum to nearly
    1.
    """
    rest_TV = logits_TV.scatter(-1, chosen_TK, -torch.inf)
    outcomes = torch.cat([logits_TV.gather(-1, chosen_TK), rest_TV.logsumexp(-1, keepdim=True)], dim=-1)
    return outcomes.log_softmax(-1)


def _kl(p_TK: Tensor, q_TK: Tensor) -> Tensor:
    """KL(p ‖ q) per token, from finite log-probabilities."""
    return functional.kl_div(q_TK, p_TK, log_target=True, reduction="none").sum(-1)
